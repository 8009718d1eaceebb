//! Roles of variables, derived from their names (reference 3).

use crate::checkpoint::WEIGHT_AVERAGE;
use std::fmt;

use serde::Serialize;

use crate::optimizer::{OPTIMIZERS, Optimizer};

/// Role of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Weights of a layer.
    Kernel,
    /// Mask of a layer.
    Mask,
    /// Bias of a layer.
    Bias,
    /// Scale of a normalisation.
    Gamma,
    /// Offset of a normalisation.
    Beta,
    /// Moving mean or variance.
    Statistic,
    /// Optimizer state.
    Slot,
    /// State of a sparse method used only in training: an average, a threshold or a record.
    Record,
    /// A counter or flag of training.
    Step,
    /// Unknown; kept as if inference needed it.
    Other,
}

/// Suffix that TensorFlow 2 adds to variable names, and infix before slot names.
const OBJECT_SUFFIX: &str = "/.ATTRIBUTES/VARIABLE_VALUE";
const OBJECT_SLOT: &str = "/.OPTIMIZER_SLOT/";

impl Role {
    /// Derives the role from a variable's name.
    pub fn of(name: &str) -> Role {
        if name.contains(OBJECT_SLOT) {
            return Role::Slot;
        }
        let name = name.strip_suffix(OBJECT_SUFFIX).unwrap_or(name);
        match name.rsplit('/').next().unwrap_or(name) {
            "weights" | "kernel" | "depthwise_weights" | "depthwise_kernel" => Role::Kernel,
            "mask" => Role::Mask,
            "biases" | "bias" => Role::Bias,
            "gamma" => Role::Gamma,
            "beta" => Role::Beta,
            "moving_mean" | "moving_variance" => Role::Statistic,
            name if is_slot(name) => Role::Slot,
            "threshold" | "ExponentialMovingAverage" | "biased" | "local_step" | "GradientAverage" | "explored" => {
                Role::Record
            }
            "global_step" | "last_mask_update_step" | "is_snipped" | "save_counter" => Role::Step,
            _ => Role::Other,
        }
    }

    /// Whether only training needs the variable.
    pub fn is_training(self) -> bool {
        matches!(self, Role::Slot | Role::Record | Role::Step)
    }
}

/// Whether this is the suffix of an array that an optimizer keeps; includes some of TensorFlow's other optimizers.
fn is_slot(name: &str) -> bool {
    let of = |rule: &Optimizer| rule.slots.contains(&name) || rule.scalars.iter().any(|scalar| scalar.name == name);
    OPTIMIZERS.into_iter().any(of) || ["RMSProp", "RMSProp_1", "Adagrad", WEIGHT_AVERAGE].contains(&name)
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Kernel => "kernel",
            Role::Mask => "mask",
            Role::Bias => "bias",
            Role::Gamma => "gamma",
            Role::Beta => "beta",
            Role::Statistic => "statistic",
            Role::Slot => "slot",
            Role::Record => "record",
            Role::Step => "step",
            Role::Other => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_original_and_of_tensorflow_2() {
        for (name, role) in [
            ("resnet_model/initial_conv/initial_conv/weights", Role::Kernel),
            ("resnet_model/depthwise_nxn_3/depthwise_weights", Role::Kernel),
            ("resnet_model/initial_conv/kernel", Role::Kernel),
            ("layer1/mask", Role::Mask),
            ("layer1/biases", Role::Bias),
            ("resnet_model/batch_normalization_7/gamma", Role::Gamma),
            ("resnet_model/batch_normalization/moving_variance", Role::Statistic),
            ("layer1/weights/Momentum", Role::Slot),
            ("layer1/mask/Adam_1", Role::Slot),
            ("beta1_power", Role::Slot),
            ("layer1/threshold", Role::Record),
            (
                "train/gradients_1/layer1/MatMul_grad/tuple/control_dependency_1/ExponentialMovingAverage",
                Role::Record,
            ),
            ("model_pruning/last_mask_update_step", Role::Step),
            ("input_indices", Role::Other),
            ("dense/kernel/.ATTRIBUTES/VARIABLE_VALUE", Role::Kernel),
            (
                "dense/kernel/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE",
                Role::Slot,
            ),
            ("save_counter/.ATTRIBUTES/VARIABLE_VALUE", Role::Step),
        ] {
            assert_eq!(Role::of(name), role, "{name}");
        }
        let needed = [
            Role::Kernel,
            Role::Mask,
            Role::Bias,
            Role::Gamma,
            Role::Beta,
            Role::Statistic,
            Role::Other,
        ];
        assert!(!needed.into_iter().any(Role::is_training));
        assert!(
            [Role::Slot, Role::Record, Role::Step]
                .into_iter()
                .all(Role::is_training)
        );
    }
}
