//! Mean and spread over runs.

use serde::Serialize;

/// A figure over the runs of one configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Statistic {
    /// Number of values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Standard deviation of the sample; absent for a single value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// Standard error of the mean; absent for a single value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sem: Option<f64>,
}

impl Statistic {
    /// The statistic of these values; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let mean = match values {
            // Exact, so that equal values have no deviation.
            [first, rest @ ..] if rest.iter().all(|value| value == first) => *first,
            _ => values.iter().sum::<f64>() / n,
        };
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        (!values.is_empty()).then_some(Statistic {
            n: values.len(),
            mean,
            std,
            sem: std.map(|std| std / n.sqrt()),
        })
    }

    /// One standard deviation below and above the mean.
    pub fn band(&self) -> (f64, f64) {
        let std = self.std.unwrap_or_default();
        (self.mean - std, self.mean + std)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_the_sample() {
        // As numpy.std(x, ddof=1) and scipy.stats.sem give.
        let of = Statistic::of(&[2.0, 4.0, 4.0, 5.0]).unwrap();
        assert_eq!((of.n, of.mean), (4, 3.75));
        assert!((of.std.unwrap() - 1.258_305_739_211_791_7).abs() < 1e-15);
        assert!((of.sem.unwrap() - 0.629_152_869_605_895_8).abs() < 1e-15);
        let one = Statistic::of(&[2.0]).unwrap();
        assert_eq!((one.mean, one.std, one.sem), (2.0, None, None));
        assert_eq!(Statistic::of(&[1.0, 2.0, 3.0]).unwrap().band(), (1.0, 3.0));
        assert_eq!(Statistic::of(&[0.1; 3]).unwrap().std, Some(0.0));
        assert_eq!(Statistic::of(&[]), None);
    }
}
