//! Does a checkpoint hold what a model needs? All that is wrong is told at once.

use std::{collections::BTreeMap, fmt};

use hlo::{DType, Literal, Shape};

use super::{Checkpoint, Error, Result};

/// One way in which a checkpoint does not fit.
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
            Problem::Mask { name, index, found } => {
                write!(f, "mask '{name}' holds {found} at index {index}, expected 0 or 1")
            }
        }
    }
}

/// The first few problems, and how many more there are.
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
    /// Takes the `wanted` arrays out of the checkpoint, keyed by name; what else it holds stays in
    /// [`tensors`](Checkpoint::tensors) (a converted original also has `threshold`s and slots).
    ///
    /// A wanted `pred` array is a mask: it may be stored as BOOL, or as any number type with only the values 0 and 1 (the
    /// original's masks are f32), and is given as `pred`. The model's name is compared when the file has one.
    ///
    /// # Errors
    /// [`Error::Unfit`] with every problem found; the checkpoint is then unchanged.
    pub fn take<N: AsRef<str>>(&mut self, model: &str, wanted: &[(N, Shape)]) -> Result<BTreeMap<String, Literal>> {
        let mut problems = Vec::new();
        if let Some(metadata) = self.metadata.as_ref().filter(|metadata| metadata.model != model) {
            problems.push(Problem::Model {
                found: metadata.model.clone(),
                expected: model.into(),
            });
        }
        let wanted = wanted.iter().map(|(name, shape)| (name.as_ref(), shape));
        let bad = wanted
            .clone()
            .filter_map(|(name, shape)| problem(name, self.tensors.get(name), shape));
        problems.extend(bad);
        if !problems.is_empty() {
            return Err(Error::Unfit {
                path: self.path.clone(),
                problems,
            });
        }
        let taken = wanted.filter_map(|(name, shape)| {
            let (name, array) = self.tensors.remove_entry(name)?;
            Some((
                name,
                if shape.dtype == DType::Pred {
                    to_pred(array)
                } else {
                    array
                },
            ))
        });
        Ok(taken.collect())
    }
}

pub(super) fn problem(name: &str, found: Option<&Literal>, expected: &Shape) -> Option<Problem> {
    let Some(array) = found else {
        return Some(Problem::Missing {
            name: name.into(),
            expected: expected.clone(),
        });
    };
    let is_mask = expected.dtype == DType::Pred;
    if array.dims() != expected.dims || (array.dtype() != expected.dtype && !is_mask) {
        return Some(Problem::Shape {
            name: name.into(),
            found: array.shape().clone(),
            expected: expected.clone(),
        });
    }
    if !is_mask || array.dtype() == DType::Pred {
        return None;
    }
    let values = array.to_f64_vec();
    let index = values.iter().position(|&value| value != 0.0 && value != 1.0)?;
    Some(Problem::Mask {
        name: name.into(),
        index,
        found: values[index],
    })
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
