//! Lists of seeds.

use std::str::FromStr;

use super::{Error, error::MAX_JOBS};

/// Seeds of runs that are equal otherwise: `0..4` for 0 to 4, `1,5,7`, or both mixed. Each appears once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

impl FromStr for Seeds {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Seeds { found: text.into() };
        // Configurations hold seeds as signed numbers.
        let number = |text: &str| {
            text.trim()
                .parse()
                .ok()
                .filter(|&n| n <= i64::MAX as u64)
                .ok_or_else(wrong)
        };
        let mut seeds = vec![];
        for part in text.split(',') {
            let (first, last) = match part.split_once("..") {
                Some((first, last)) => (number(first)?, number(last.trim_start_matches('='))?),
                None => (number(part)?, number(part)?),
            };
            if first > last || last - first >= MAX_JOBS as u64 {
                return Err(wrong());
            }
            for seed in first..=last {
                if !seeds.contains(&seed) {
                    seeds.push(seed);
                }
            }
        }
        Ok(Seeds(seeds))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_ends() {
        let seeds = |text: &str| text.parse::<Seeds>().unwrap().0;
        assert_eq!(seeds("0..4"), [0, 1, 2, 3, 4]);
        assert_eq!(seeds("7"), [7]);
        assert_eq!(seeds("5, 1..2,1"), [5, 1, 2]);
        for wrong in [
            "",
            "4..0",
            "a",
            "0..",
            "-1",
            "0..99999999999",
            "1.5",
            "9223372036854775808",
        ] {
            assert!(wrong.parse::<Seeds>().is_err(), "{wrong}");
        }
    }
}
