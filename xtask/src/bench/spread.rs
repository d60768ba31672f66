//! The same figure of several runs: its median, and how far the runs lie apart.

use std::fmt;

/// Median, least and greatest of some figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// None if there are no figures. The median of an even number of them is the mean of the two in the middle.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures = figures.into_iter().collect::<Vec<_>>();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let (below, above) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        Some(Self { median: f64::midpoint(below, above), min, max })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, min, max] = [self.median, self.min, self.max].map(three_digits);
        write!(out, "{median} ({min}–{max})")
    }
}

/// A figure as people read it: three digits that count, thousands apart.
pub(crate) fn three_digits(figure: f64) -> String {
    match figure.abs() {
        size if size >= 99.95 => thousands(&format!("{figure:.0}")),
        size if size >= 9.995 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

fn thousands(digits: &str) -> String {
    let start = digits.len() % 3;
    let groups = digits.as_bytes()[start..].chunks(3).map(|group| String::from_utf8_lossy(group));
    let first = Some(digits[..start].into()).filter(|first: &std::borrow::Cow<'_, str>| !first.is_empty());
    first.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_in_the_middle() {
        let spread = |figures: &[f64]| Spread::of(figures.iter().copied());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[7.0]), Some(Spread { median: 7.0, min: 7.0, max: 7.0 }));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn figures_are_shown_with_the_digits_that_count() {
        let shown = [0.0, 0.126, 9.994, 9.996, 99.94, 99.96, 999.4, 1234.0, 123_456.7].map(three_digits);
        assert_eq!(shown, ["0.00", "0.13", "9.99", "10.0", "99.9", "100", "999", "1,234", "123,457"]);
        let spread = Spread { median: 41.23, min: 40.0, max: 1500.0 };
        assert_eq!(spread.to_string(), "41.2 (40.0–1,500)");
    }
}
