//! Inputs without an engine: valid ones, valid ones with a few things wrong, and noise; all from one seed.

/// Endless inputs for a decoder, made from valid ones. The same seed gives the same inputs.
#[derive(Debug, Clone)]
pub struct Inputs {
    seeds: Vec<Vec<u8>>,
    state: u64,
}

/// Numbers on which length checks go wrong.
const EDGES: [u32; 8] = [0, 1, 15, 16, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF];
/// The most that one input has wrong.
const FAULTS_MAX: usize = 6;
/// The longest noise.
const NOISE_BYTES_MAX: usize = 600;

impl Inputs {
    /// Inputs made from these valid ones.
    #[must_use]
    pub fn new(seeds: Vec<Vec<u8>>, seed: u64) -> Self {
        Self { seeds, state: seed }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`; 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random() % (bound.max(1) as u64)).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.random().to_le_bytes()[0]
    }

    fn noise(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    fn some_seed(&mut self) -> Vec<u8> {
        let at = self.below(self.seeds.len());
        self.seeds.get(at).cloned().unwrap_or_default()
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        match self.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, 0),
            2 => {
                let len = self.below(64);
                let noise = self.noise(len);
                bytes.splice(at..at, noise);
            }
            3 => {
                let end = (at + self.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let edge = EDGES[self.below(EDGES.len())];
                let edge = if self.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
                bytes.iter_mut().skip(at).zip(edge).for_each(|(byte, new)| *byte = new);
            }
            5 => {
                let other = self.some_seed();
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let bit = self.below(8);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
            }
        }
    }
}

impl Iterator for Inputs {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.below(16) == 0 {
            let len = self.below(NOISE_BYTES_MAX);
            return Some(self.noise(len));
        }
        let mut bytes = self.some_seed();
        for _ in 0..self.below(FAULTS_MAX + 1) {
            self.damage(&mut bytes);
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_sometimes_valid_mostly_damaged_and_the_same_for_a_seed() {
        let seeds = vec![vec![1; 50], vec![2; 9]];
        let made = |seed| Inputs::new(seeds.clone(), seed).take(1000).collect::<Vec<_>>();
        let (inputs, valid) = (made(1), made(1).iter().filter(|input| seeds.contains(input)).count());
        assert!((50..400).contains(&valid), "{valid}");
        assert_eq!(inputs, made(1));
        assert_ne!(inputs, made(2));
    }
}
