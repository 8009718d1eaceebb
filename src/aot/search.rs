//! The largest batch that fits.

/// Finds the largest multiple of `grid` that fits, with the result of `fits`; `None` if not even `grid` fits.
///
/// Doubles the batch until it does not fit, or starts from `refused`, which is known not to fit; then bisects until the gap is a
/// sixteenth of the batch, or `grid`, which bounds the error. Tries nothing above `limit`. Assumes that `fits` is monotonic.
///
/// # Errors
/// The first error of `fits`.
pub fn largest<T, E>(
    grid: usize,
    limit: usize,
    mut refused: Option<usize>,
    mut fits: impl FnMut(usize) -> Result<Option<T>, E>,
) -> Result<Option<(usize, T)>, E> {
    if refused.is_some_and(|high| high <= grid) {
        return Ok(None);
    }
    let Some(first) = fits(grid)? else { return Ok(None) };
    let mut best = (grid, first);
    loop {
        let (low, step) = (best.0, (best.0 / 16).max(grid));
        let next = match refused {
            None if low * 2 > limit => return Ok(Some(best)),
            None => low * 2,
            Some(high) if high - low <= step => return Ok(Some(best)),
            Some(high) => low + ((high - low) / 2).next_multiple_of(grid),
        };
        match fits(next)? {
            Some(found) => best = (next, found),
            None => refused = Some(next),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The batch found if at most `limit` fits, and the number of attempts.
    fn search(grid: usize, limit: usize) -> (Option<usize>, usize) {
        search_below(grid, limit, None)
    }

    fn search_below(grid: usize, limit: usize, refused: Option<usize>) -> (Option<usize>, usize) {
        let mut tries = 0;
        let found = largest(grid, 4096, refused, |batch| {
            assert!(refused.is_none_or(|refused| batch < refused), "{batch}");
            tries += 1;
            Ok::<_, ()>((batch <= limit).then_some(()))
        });
        (found.unwrap().map(|(batch, ())| batch), tries)
    }

    #[test]
    fn a_batch_known_not_to_fit_bounds_the_search() {
        assert_eq!(search_below(8, 4, Some(8)), (None, 0));
        for refused in 9..600 {
            for limit in [7, 8, 9, refused / 2, refused - 1] {
                let (found, tries) = search_below(8, limit, Some(refused));
                assert_eq!(found.is_some(), limit >= 8);
                let gap = limit - found.unwrap_or(limit);
                assert!(gap < (limit / 16).max(8) + 8, "{found:?} of {limit} below {refused}");
                assert!(tries <= 8, "{tries} tries for {limit} below {refused}");
            }
        }
    }

    #[test]
    fn what_is_found_fits_and_is_nearly_the_largest() {
        assert_eq!(search(8, 7).0, None);
        assert_eq!(search(8, 100_000).0, Some(4096), "the most that is tried");
        for limit in 8..4096 {
            let (found, tries) = search(8, limit);
            let found = found.unwrap();
            assert!(found <= limit && found % 8 == 0, "{found} of {limit}");
            assert!(limit - found < (found / 16).max(8) + 8, "{found} of {limit}");
            assert!(tries <= 18, "{tries} tries for {limit}");
        }
    }

    #[test]
    fn a_failure_ends_the_search() {
        assert_eq!(
            largest(8, 64, None, |_| Err::<Option<()>, _>("no compiler")),
            Err("no compiler")
        );
    }
}
