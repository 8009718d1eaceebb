//! The validation split: training examples that a run holds out, so that the test set chooses nothing.

use std::sync::Arc;

use hlo::Literal;

use super::batches::shuffled;
use super::sets::Examples;
use super::{Dataset, Error, Result, stream};

/// Splits off `held` examples, drawn by `seed`. Returns the others and them, both in their former order.
///
/// # Errors
/// [`Error::Validation`] if none would be left, or none is held out.
pub fn hold_out(examples: &Examples, held: usize, seed: u64) -> Result<[Examples; 2]> {
    let all = examples.len();
    let wrong = || Error::Validation { held, examples: all };
    let n = i32::try_from(all).map_err(|_| wrong())?;
    if held == 0 || held >= all {
        return Err(wrong());
    }
    let mut drawn = vec![false; all];
    let order = shuffled(n, &mut stream(seed, "validation", 0));
    order[..held].iter().for_each(|&index| drawn[index as usize] = true);
    let part = |wanted: bool| -> Vec<usize> { (0..all).filter(|&index| drawn[index] == wanted).collect() };
    Ok([false, true].map(|held| of(examples, &part(held))))
}

fn of(examples: &Examples, chosen: &[usize]) -> Examples {
    match examples {
        Examples::Whole(set) => Examples::Whole(Dataset {
            images: rows(&set.images, chosen),
            labels: rows(&set.labels, chosen),
            classes: set.classes,
        }),
        Examples::Arrays(arrays) => Examples::Arrays(Arc::new(arrays.chosen(chosen))),
        Examples::Records(records) => Examples::Records(Arc::new(records.part(chosen))),
    }
}

/// The chosen rows of an array.
fn rows(of: &Literal, chosen: &[usize]) -> Literal {
    let mut shape = of.shape().clone();
    let row = shape.bytes() / shape.dims[0].max(1);
    let mut bytes = Vec::with_capacity(row * chosen.len());
    for &index in chosen {
        bytes.extend_from_slice(&of.bytes()[row * index..row * (index + 1)]);
    }
    shape.dims[0] = chosen.len();
    match Literal::from_bytes(shape, bytes) {
        Some(rows) => rows,
        None => unreachable!("as many bytes as rows of the shape"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_complete_and_of_the_seed() {
        let n = 50;
        let images: Vec<u8> = (0..2 * n).map(|i| i as u8).collect();
        let set = Examples::Whole(Dataset {
            images: Literal::new(&[n, 2], &images),
            labels: Literal::new(&[n], &(0..n as i32).collect::<Vec<_>>()),
            classes: n,
        });
        let labels = |part: &Examples| -> Vec<i32> {
            let Examples::Whole(set) = part else { panic!() };
            let (labels, images): (Vec<i32>, &[u8]) = (set.labels.to_vec().unwrap(), set.images.bytes());
            let first = labels.iter().map(|&label| 2 * label as u8);
            assert!(images.iter().step_by(2).copied().eq(first));
            labels
        };
        let split = |seed| hold_out(&set, 7, seed).unwrap().each_ref().map(labels);
        let [rest, held] = split(1);
        assert_eq!((rest.len(), held.len()), (43, 7));
        let mut all = [rest.clone(), held.clone()].concat();
        all.sort();
        assert_eq!(all, (0..n as i32).collect::<Vec<_>>());
        assert_eq!(split(1), [rest, held.clone()]);
        assert_ne!(split(2)[1], held);
        for wrong in [0, n, n + 1] {
            assert!(hold_out(&set, wrong, 1).is_err(), "{wrong}");
        }
    }
}
