//! Numbers as Riak writes ids: base 62, without padding.

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A number in base 62, at most 22 digits.
pub(crate) fn base62(mut number: u128) -> String {
    let mut digits = Vec::with_capacity(22);
    loop {
        let digit = usize::try_from(number % 62).expect("below 62");
        digits.push(char::from(DIGITS[digit]));
        number /= 62;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_riaks_alphabet() {
        let written = [0, 9, 10, 35, 36, 61, 62, u128::MAX].map(base62);
        assert_eq!(written, ["0", "9", "A", "Z", "a", "z", "10", "7n42DGM5Tflk9n8mt7Fhc7"]);
    }
}
