//! What a benchmark asks for: keys, values, and the mix of gets and puts.
//!
//! Seeded: the same arguments ask for the same keys in the same order on each connection. Requests are built from
//! templates; keys and values are slices of buffers that are reused, so that choosing costs next to nothing.

use super::{BenchArgs, contexts::Contexts};
use bytes::{Bytes, BytesMut};
use rondel_proto::riak::{
    QuorumArg,
    messages::{RpbContent, RpbGetReq, RpbPutReq},
};
use std::fmt::Write as _;

/// The exponent of the Zipf distribution, as YCSB has it.
const ZIPF_EXPONENT: f64 = 0.99;
/// Values are windows of this much noise more than a value is long, so no two in a row are alike.
const NOISE_BYTES: usize = 64 << 10;
/// Names of keys are cut from a buffer of this size, which is used again when they are gone.
const SCRATCH_BYTES: usize = 4 << 10;

/// Which keys are asked for how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// All alike
    Uniform,
    /// A few very often, most hardly ever (exponent 0.99)
    Zipf,
}

/// A request to be made, on the key of that number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation<'a> {
    Get(u64, &'a RpbGetReq),
    Put(u64, &'a RpbPutReq),
}

/// The two kinds of requests, measured apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    Put,
}

impl Operation<'_> {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Get(..) => Kind::Get,
            Self::Put(..) => Kind::Put,
        }
    }
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Workload {
    get: RpbGetReq,
    put: RpbPutReq,
    read_share: f64,
    value_bytes: usize,
    noise: Bytes,
    keys: KeyChoice,
}

impl Workload {
    pub(super) fn new(args: &BenchArgs) -> Self {
        let bucket = Bytes::from(args.bucket.clone());
        let bucket_type = args.bucket_type.clone().map(Bytes::from);
        let get = RpbGetReq {
            bucket: bucket.clone(),
            r: args.r.map(QuorumArg::to_wire),
            r#type: bucket_type.clone(),
            ..RpbGetReq::default()
        };
        let content =
            RpbContent { content_type: Some("application/octet-stream".into()), ..RpbContent::default() };
        let put = RpbPutReq {
            bucket,
            content,
            w: args.w.map(QuorumArg::to_wire),
            dw: args.dw.map(QuorumArg::to_wire),
            return_head: (!args.blind).then_some(true),
            r#type: bucket_type,
            ..RpbPutReq::default()
        };
        let value_bytes = args.value_size as usize;
        let mut noise = vec![0; value_bytes + NOISE_BYTES];
        fastrand::Rng::with_seed(args.seed).fill(&mut noise);
        let keys = KeyChoice::new(args.distribution, args.keys);
        Self { get, put, read_share: args.read_share, value_bytes, noise: noise.into(), keys }
    }

    /// What the connection of that number asks for.
    pub(super) fn choices(&self, seed: u64, connection: u64) -> Choices<'_> {
        // Neighbouring seeds give unrelated streams: the generator mixes its seed.
        let rng = fastrand::Rng::with_seed(seed.wrapping_mul(1 << 32).wrapping_add(connection));
        let (get, put) = (self.get.clone(), self.put.clone());
        Choices { workload: self, rng, get, put, scratch: BytesMut::with_capacity(SCRATCH_BYTES) }
    }
}

/// The endless list of what one connection asks for.
#[derive(Debug)]
pub(super) struct Choices<'a> {
    workload: &'a Workload,
    rng: fastrand::Rng,
    get: RpbGetReq,
    put: RpbPutReq,
    scratch: BytesMut,
}

impl Choices<'_> {
    pub(super) fn next(&mut self, contexts: &Contexts) -> Operation<'_> {
        let key = self.workload.keys.choose(&mut self.rng);
        if self.rng.f64() < self.workload.read_share {
            self.get.key = self.name(key);
            self.get.head = None;
            Operation::Get(key, &self.get)
        } else {
            self.put(key, contexts)
        }
    }

    /// A get of everything but the value.
    pub(super) fn look(&mut self, key: u64) -> Operation<'_> {
        self.get.key = self.name(key);
        self.get.head = Some(true);
        Operation::Get(key, &self.get)
    }

    /// A put that replaces what has been seen.
    pub(super) fn put(&mut self, key: u64, contexts: &Contexts) -> Operation<'_> {
        self.put.key = Some(self.name(key));
        self.put.vclock = contexts.of(key);
        let start = self.rng.usize(..=NOISE_BYTES);
        self.put.content.value = self.workload.noise.slice(start..start + self.workload.value_bytes);
        Operation::Put(key, &self.put)
    }

    fn name(&mut self, key: u64) -> Bytes {
        write!(self.scratch, "key-{key:012}").expect("a buffer in memory grows");
        self.scratch.split().freeze()
    }
}

/// Draws the numbers of keys.
#[derive(Debug)]
enum KeyChoice {
    Uniform { keys: u64 },
    Zipf(Zipf),
}

impl KeyChoice {
    fn new(distribution: Distribution, keys: u64) -> Self {
        match distribution {
            Distribution::Uniform => Self::Uniform { keys },
            Distribution::Zipf => Self::Zipf(Zipf::new(keys)),
        }
    }

    fn choose(&self, rng: &mut fastrand::Rng) -> u64 {
        match self {
            Self::Uniform { keys } => rng.u64(..keys),
            Self::Zipf(zipf) => zipf.choose(rng.f64()),
        }
    }
}

/// Key 0 is the most popular one, key i is (i + 1)^0.99 times rarer. Servers hash their keys, so neighbours in
/// popularity are none on the ring.
///
/// Source: Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994), §4.1.
#[derive(Debug)]
struct Zipf {
    keys: u64,
    harmonic: f64,
    eta: f64,
}

impl Zipf {
    fn new(keys: u64) -> Self {
        let harmonic = harmonic(keys);
        let eta =
            (1.0 - (2.0 / keys as f64).powf(1.0 - ZIPF_EXPONENT)) / (1.0 - harmonic_of_two() / harmonic);
        Self { keys, harmonic, eta }
    }

    /// The key at `share` (0 to 1) of all requests, ordered by popularity.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of the keys is a number of a key"
    )]
    fn choose(&self, share: f64) -> u64 {
        let scaled = share * self.harmonic;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < harmonic_of_two() {
            return 1.min(self.keys - 1);
        }
        let tail = (self.eta * share - self.eta + 1.0).powf(1.0 / (1.0 - ZIPF_EXPONENT));
        ((self.keys as f64 * tail) as u64).min(self.keys - 1)
    }
}

fn harmonic(keys: u64) -> f64 {
    (1..=keys).map(|rank| (rank as f64).powf(-ZIPF_EXPONENT)).sum()
}

fn harmonic_of_two() -> f64 {
    harmonic(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(distribution: Distribution, keys: u64, draws: usize) -> Vec<usize> {
        let choice = KeyChoice::new(distribution, keys);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = vec![0; usize::try_from(keys).unwrap()];
        for _ in 0..draws {
            counts[usize::try_from(choice.choose(&mut rng)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn uniform_keys_are_asked_for_alike() {
        let counts = counts(Distribution::Uniform, 10, 100_000);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_keys_are_asked_for_as_their_rank_says() {
        let draws = 200_000;
        let counts = counts(Distribution::Zipf, 1000, draws);
        let share = |rank: u64| (rank as f64).powf(-ZIPF_EXPONENT) / harmonic(1000);
        for rank in [1usize, 2] {
            let expected = share(rank as u64) * draws as f64;
            assert!(
                (counts[rank - 1] as f64 / expected - 1.0).abs() < 0.05,
                "rank {rank}: {}",
                counts[rank - 1]
            );
        }
        // The tail is an approximation: right in sum.
        let tail: usize = counts[100..].iter().sum();
        let expected: f64 = (101..=1000).map(share).sum::<f64>() * draws as f64;
        assert!((tail as f64 / expected - 1.0).abs() < 0.05, "{tail} of {expected}");
    }

    #[test]
    fn few_keys_are_enough_for_zipf() {
        for keys in 1..5 {
            let zipf = Zipf::new(keys);
            for share in [0.0, 0.3, 0.6, 0.999_999_9] {
                assert!(zipf.choose(share) < keys, "{share} of {keys}");
            }
        }
    }

    #[test]
    fn the_same_seed_asks_the_same() {
        let args =
            crate::commands::bench::tests::args(&["--read-share", "0.5", "--value-size", "10", "--r", "all"]);
        let workload = Workload::new(&args);
        let list = |connection| -> Vec<_> {
            let mut choices = workload.choices(1, connection);
            let contexts = Contexts::default();
            let mut record = || match choices.next(&contexts) {
                Operation::Get(_, get) => (Kind::Get, get.key.clone(), get.r, 0),
                Operation::Put(_, put) => {
                    (Kind::Put, put.key().to_vec().into(), None, put.content.value.len())
                }
            };
            (0..50).map(|_| record()).collect()
        };
        assert_eq!(list(0), list(0));
        assert_ne!(list(0), list(1));
        let puts = list(0).iter().filter(|(kind, ..)| *kind == Kind::Put).count();
        assert!((10..40).contains(&puts), "{puts}");
        for (kind, _, r, value_bytes) in list(0) {
            match kind {
                Kind::Get => assert_eq!(r, Some(QuorumArg::All.to_wire())),
                Kind::Put => assert_eq!(value_bytes, 10),
            }
        }
    }
}
