//! Checks that a checkpoint has the arrays that a model needs, and reports all problems at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hlo::{DType, Literal, Shape};

use super::{Checkpoint, Error, Result};

/// A mismatch between a checkpoint and a model.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as for `Error`
pub enum Problem {
    Model {
        found: String,
        expected: String,
    },
    Missing {
        name: String,
        expected: Shape,
    },
    Shape {
        name: String,
        found: Shape,
        expected: Shape,
    },
    Type {
        name: String,
        found: String,
        expected: Shape,
    },
    Mask {
        name: String,
        index: usize,
        found: f64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Model { found, expected } => write!(f, "model '{found}', expected '{expected}'"),
            Problem::Missing { name, expected } => write!(f, "'{name}' is missing, expected {expected}"),
            Problem::Shape { name, found, expected } => write!(f, "'{name}' is {found}, expected {expected}"),
            Problem::Type { name, found, expected } => {
                write!(
                    f,
                    "'{name}' is {found}, a type that this program does not read, expected {expected}"
                )
            }
            Problem::Mask { name, index, found } => {
                write!(f, "mask '{name}' holds {found} at index {index}, expected 0 or 1")
            }
        }
    }
}

/// Formats the first few problems and the number of the others.
pub(super) struct Listed<'a>(pub &'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        for (i, problem) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{problem}", if i > 0 { "; " } else { "" })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl Checkpoint {
    /// Removes the `wanted` arrays from the checkpoint and returns them by name. Other arrays stay in
    /// [`tensors`](Checkpoint::tensors) (a converted original also has `threshold`s and slots).
    ///
    /// Floating-point arrays of any readable type are converted to the wanted type ([`Checkpoint::conversions`] names
    /// them). A wanted `pred` array is a mask: it may be stored as BOOL, or as any number type with only the values 0
    /// and 1 (the original's masks are f32), and is returned as `pred`. The model's name is checked if the file has
    /// one.
    ///
    /// # Errors
    /// [`Error::Unfit`] with every problem found. The checkpoint is unchanged then.
    pub fn take<N: AsRef<str>>(&mut self, model: &str, wanted: &[(N, Shape)]) -> Result<BTreeMap<String, Literal>> {
        let mut problems = Vec::new();
        if let Some(metadata) = self.metadata.as_ref().filter(|metadata| metadata.model != model) {
            problems.push(Problem::Model {
                found: metadata.model.clone(),
                expected: model.into(),
            });
        }
        let wanted = wanted.iter().map(|(name, shape)| (name.as_ref(), shape));
        let bad = wanted.clone().filter_map(|(name, shape)| self.problem(name, shape));
        problems.extend(bad);
        if !problems.is_empty() {
            return Err(Error::Unfit {
                path: self.path.clone(),
                problems,
            });
        }
        let taken = wanted.filter_map(|(name, shape)| {
            let (name, array) = self.tensors.remove_entry(name)?;
            Some((name, converted(array, shape.dtype)))
        });
        Ok(taken.collect())
    }

    /// Renames arrays that the file has under `other(name, dimensions)` to the wanted names.
    pub fn rename<N: AsRef<str>>(&mut self, wanted: &[(N, Shape)], other: impl Fn(&str, &[usize]) -> String) {
        for (name, shape) in wanted {
            let name = name.as_ref();
            if !self.tensors.contains_key(name)
                && let Some(array) = self.tensors.remove(&other(name, &shape.dims))
            {
                self.tensors.insert(name.into(), array);
            }
        }
    }

    /// Describes the floating-point conversions that [`take`](Checkpoint::take) makes, for a note; `None` without any.
    pub fn conversions<N: AsRef<str>>(&self, wanted: &[(N, Shape)]) -> Option<String> {
        let found = |(name, shape): &(N, Shape)| {
            let found = self.tensors.get(name.as_ref())?.dtype();
            (shape.dtype == DType::F32 && found.is_float() && found != DType::F32)
                .then(|| (found.to_string(), shape.dtype.to_string()))
        };
        let pairs: BTreeSet<(String, String)> = wanted.iter().filter_map(found).collect();
        let words = pairs.iter().map(|(from, to)| format!("{from} converted to {to}"));
        let words = words.collect::<Vec<_>>().join(", ");
        (!words.is_empty()).then(|| format!("{}: {words}", self.path.display()))
    }

    /// Finds the problem of the array with this name.
    fn problem(&self, name: &str, expected: &Shape) -> Option<Problem> {
        match self.unread.get(name) {
            Some(found) => Some(Problem::Type {
                name: name.into(),
                found: found.clone(),
                expected: expected.clone(),
            }),
            None => problem(name, self.tensors.get(name), expected),
        }
    }
}

/// Finds the problem of an array, given the `expected` type and dimensions.
pub(super) fn problem(name: &str, found: Option<&Literal>, expected: &Shape) -> Option<Problem> {
    let (name, expected) = (name.to_owned(), expected.clone());
    let Some(array) = found else {
        return Some(Problem::Missing { name, expected });
    };
    let is_mask = expected.dtype == DType::Pred;
    let convertible = array.dtype().is_float() && expected.dtype == DType::F32;
    if array.dims() != expected.dims || (array.dtype() != expected.dtype && !is_mask && !convertible) {
        let found = array.shape().clone();
        return Some(Problem::Shape { name, found, expected });
    }
    if !is_mask || array.dtype() == DType::Pred {
        return None;
    }
    let values = array.to_f64_vec();
    let index = values.iter().position(|&value| value != 0.0 && value != 1.0)?;
    Some(Problem::Mask {
        name,
        index,
        found: values[index],
    })
}

/// Converts an array to another type: to a mask, or floating-point numbers rounded to the nearest.
pub(super) fn converted(array: Literal, to: DType) -> Literal {
    match to {
        DType::Pred => to_pred(array),
        DType::F32 if array.dtype() != DType::F32 => {
            let values: Vec<f32> = array.to_f64_vec().iter().map(|&value| value as f32).collect();
            Literal::new(array.dims(), &values)
        }
        _ => array,
    }
}

pub(super) fn to_pred(mask: Literal) -> Literal {
    if mask.dtype() == DType::Pred {
        return mask;
    }
    let bools: Vec<_> = mask.to_f64_vec().iter().map(|&value| value != 0.0).collect();
    Literal::from_bools(mask.dims(), &bools)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::Metadata;

    fn checkpoint(tensors: &[(&str, Literal)]) -> Checkpoint {
        let tensors = tensors
            .iter()
            .map(|(name, array)| (name.to_string(), array.clone()))
            .collect();
        Checkpoint {
            path: "c.safetensors".into(),
            tensors,
            unread: BTreeMap::new(),
            metadata: Some(Metadata::new("mnist-fc", 0, "")),
        }
    }

    #[test]
    fn masks_of_any_type_come_as_pred_and_extras_stay() {
        for mask in [
            Literal::new(&[3], &[1u8, 0, 1]),
            Literal::new(&[3], &[1f32, 0., 1.]),
            Literal::from_bools(&[3], &[true, false, true]),
        ] {
            let mut checkpoint = checkpoint(&[("m", mask), ("m/threshold", Literal::scalar(0f32))]);
            let taken = checkpoint
                .take("mnist-fc", &[("m", Shape::new(DType::Pred, [3]))])
                .unwrap();
            assert_eq!(taken["m"], Literal::from_bools(&[3], &[true, false, true]));
            assert_eq!(checkpoint.tensors.keys().collect::<Vec<_>>(), ["m/threshold"]);
        }
    }

    #[test]
    fn every_problem_is_told_at_once_and_nothing_is_taken() {
        let mut checkpoint = checkpoint(&[
            ("good", Literal::scalar(0f32)),
            ("shape", Literal::new(&[2], &[0f32; 2])),
            ("type", Literal::new(&[3], &[0i32; 3])),
            ("mask", Literal::new(&[2], &[1f32, 0.5])),
        ]);
        let wanted = [
            ("good", Shape::scalar(DType::F32)),
            ("absent", Shape::new(DType::F32, [784, 300])),
            ("shape", Shape::new(DType::F32, [3])),
            ("type", Shape::new(DType::F32, [3])),
            ("mask", Shape::new(DType::Pred, [2])),
        ];
        assert_eq!(
            checkpoint.take("resnet50", &wanted).unwrap_err().to_string(),
            "c.safetensors: does not fit: model 'mnist-fc', expected 'resnet50'; 'absent' is missing, expected f32[784,300]; \
             'shape' is f32[2], expected f32[3]; 'type' is s32[3], expected f32[3]; \
             mask 'mask' holds 0.5 at index 1, expected 0 or 1"
        );
        assert_eq!(checkpoint.tensors.len(), 4);
    }

    #[test]
    fn long_lists_are_counted() {
        let wanted: Vec<_> = (0..20)
            .map(|i| (format!("layer{i}"), Shape::scalar(DType::F32)))
            .collect();
        let message = checkpoint(&[]).take("mnist-fc", &wanted).unwrap_err().to_string();
        assert!(message.contains("'layer5'") && !message.contains("'layer6'") && message.ends_with("; and 14 more"));
    }
}
