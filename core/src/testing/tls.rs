//! Cryptography whose randomness comes from the seed. The only file that knows how rustls asks for it.
//!
//! Ciphertext decides more than what it hides: an endpoint tries to read a stray packet as the first of a new
//! connection, and a few bits of noise decide how far it gets. So the bytes on the simulated wire are the same for the
//! same seed. Everything but the private key of the key exchange and the random numbers of handshakes is what
//! production uses; the exchange itself is X25519, as there.

use super::lock;
use crate::env::Rng;
use rustls::{
    Error, NamedGroup, PeerMisbehaved,
    crypto::{
        ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
        ring::default_provider,
    },
};
use std::{fmt, sync::Mutex};
use x25519_dalek::{PublicKey, StaticSecret};

/// What production uses, with this randomness. A few bytes of it stay in memory for ever: rustls takes its parts from
/// static places only.
pub(super) fn provider(rng: Rng) -> CryptoProvider {
    let seeded: &'static Seeded = Box::leak(Box::new(Seeded(Mutex::new(rng))));
    CryptoProvider { kx_groups: vec![seeded], secure_random: seeded, ..default_provider() }
}

struct Seeded(Mutex<Rng>);

impl Seeded {
    fn fill_from_seed(&self, out: &mut [u8]) {
        let mut rng = lock(&self.0);
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&rng.u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

impl fmt::Debug for Seeded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Seeded")
    }
}

impl SecureRandom for Seeded {
    fn fill(&self, out: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.fill_from_seed(out);
        Ok(())
    }
}

impl SupportedKxGroup for Seeded {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut secret = [0; 32];
        self.fill_from_seed(&mut secret);
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        Ok(Box::new(Exchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: StaticSecret,
    public: PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] =
            peer.try_into().map_err(|_| Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare))?;
        Ok(SharedSecret::from(&self.secret.diffie_hellman(&PublicKey::from(peer)).as_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_come_to_one_secret_and_one_seed_to_one_key() {
        let start = |seed| provider(Rng::from_seed(seed)).kx_groups[0].start().unwrap();
        let (one, two) = (start(1), start(2));
        assert_eq!(one.pub_key(), start(1).pub_key());
        let keys = (one.pub_key().to_vec(), two.pub_key().to_vec());
        assert_ne!(keys.0, keys.1);
        let secrets = (one.complete(&keys.1).unwrap(), two.complete(&keys.0).unwrap());
        assert_eq!(secrets.0.secret_bytes(), secrets.1.secret_bytes());
        assert!(start(3).complete(b"short").is_err());
    }

    #[test]
    fn the_exchange_is_the_one_of_production() {
        let ours = provider(Rng::from_seed(1)).kx_groups[0].start().unwrap();
        let theirs =
            default_provider().kx_groups.into_iter().find(|group| group.name() == NamedGroup::X25519);
        let theirs = theirs.unwrap().start().unwrap();
        let keys = (ours.pub_key().to_vec(), theirs.pub_key().to_vec());
        let secrets = (ours.complete(&keys.1).unwrap(), theirs.complete(&keys.0).unwrap());
        assert_eq!(secrets.0.secret_bytes(), secrets.1.secret_bytes());
    }
}
