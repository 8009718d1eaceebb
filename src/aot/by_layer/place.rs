//! The layer and the part of an iteration that an instruction belongs to, from the scopes of the graph.

use serde::Serialize;

/// Part of a training iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Images and labels of the batch, and their preprocessing.
    Input,
    /// Forward pass, without normalisation.
    Forward,
    /// Batch normalisation in the forward pass, where it is a kernel of its own.
    Normalisation,
    /// Loss and accuracy.
    Loss,
    /// Backward pass, with that of normalisation.
    Backward,
    /// Sums over replicas.
    Exchange,
    /// Gradient step.
    Optimizer,
    /// Mask update, and what is kept for it.
    Update,
    /// Everything else, such as copies between the parts.
    Other,
}

impl Phase {
    /// Every phase, in the order of an iteration.
    pub const ALL: [Phase; 9] = [
        Phase::Input,
        Phase::Forward,
        Phase::Normalisation,
        Phase::Loss,
        Phase::Backward,
        Phase::Exchange,
        Phase::Optimizer,
        Phase::Update,
        Phase::Other,
    ];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Input => "input",
            Phase::Forward => "forward",
            Phase::Normalisation => "normalisation",
            Phase::Loss => "loss",
            Phase::Backward => "backward",
            Phase::Exchange => "exchange",
            Phase::Optimizer => "optimizer",
            Phase::Update => "update",
            Phase::Other => "other",
        }
    }

    /// The phase of a scope of the graphs of `train`.
    fn of_scope(scope: &str) -> Option<Phase> {
        Some(match scope {
            "batch" | "input" => Phase::Input,
            "forward" => Phase::Forward,
            "loss" | "accuracy" => Phase::Loss,
            "replicas" => Phase::Exchange,
            "optimizer" => Phase::Optimizer,
            "mask_update" | "average" => Phase::Update,
            _ => return None,
        })
    }
}

/// Where an instruction belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Layer of the model; empty for what belongs to none.
    pub layer: String,
    /// Part of the iteration.
    pub phase: Phase,
}

impl Place {
    /// Reads the scopes of an operator's name, such as `gradient/forward/initial_conv/convolution`; `None` if it has none
    /// of those that this program writes.
    pub fn of_name(name: &str) -> Option<Place> {
        // A compiler may join the names of several operators.
        let name = name.split(';').next().unwrap_or(name);
        let mut scopes: Vec<&str> = name.split('/').collect();
        scopes.pop();
        let start = scopes.iter().position(|scope| Phase::of_scope(scope).is_some())?;
        let phase = Phase::of_scope(scopes[start])?;
        let inner = &scopes[start + 1..];
        let backward = scopes[..start].contains(&"gradient");
        let normalises = inner.iter().any(|scope| scope.starts_with("batch_normalization"));
        let phase = match phase {
            Phase::Forward if backward => Phase::Backward,
            Phase::Forward if normalises => Phase::Normalisation,
            phase => phase,
        };
        let layer = inner.first().map_or(String::new(), |layer| (*layer).to_owned());
        Some(Place { layer, phase })
    }

    /// The place of instructions without a layer and a known phase.
    pub(super) fn unknown() -> Place {
        Place {
            layer: String::new(),
            phase: Phase::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_scopes() {
        for (name, layer, phase) in [
            ("forward/conv_1/convolution", "conv_1", Phase::Forward),
            (
                "forward/conv_1/batch_normalization_3/multiply",
                "conv_1",
                Phase::Normalisation,
            ),
            (
                "gradient/forward/conv_1/batch_normalization/add",
                "conv_1",
                Phase::Backward,
            ),
            ("gradient/loss/exponential", "", Phase::Loss),
            ("optimizer/conv_1/add", "conv_1", Phase::Optimizer),
            ("while/body/mask_update/select/compare", "select", Phase::Update),
            ("a/forward/x/add;b/optimizer/y/add", "x", Phase::Forward),
        ] {
            let expected = Place {
                layer: layer.to_owned(),
                phase,
            };
            assert_eq!(Place::of_name(name), Some(expected), "{name}");
        }
        for name in ["", "forward", "add", "jit(f)/conv"] {
            assert_eq!(Place::of_name(name), None, "{name}");
        }
    }
}
