//! How `eval` and `predict` compute masked layers.

use super::input_args::DeviceArgs;
use crate::cli::error::{Result, Usage};
use crate::config::{Execution, prediction_gains};
use crate::engine::EngineKind;
use crate::named::Named;
use crate::prediction::SparsePredictor;
use crate::report;
use crate::train::Error;
use crate::train::loaded_network::LoadedNetwork;
use models::Precision;
use pjrt::DeviceKind;

/// How masked layers are computed.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct ExecutionArgs {
    /// How masked layers are computed: masked (as dense ones), sparse (from their connections alone, on the processor without a
    /// plugin), or auto (in the way that measured faster)
    #[arg(
        long,
        value_name = "NAME",
        value_enum,
        default_value = "auto",
        hide_possible_values = true
    )]
    execution: Execution,
}

impl ExecutionArgs {
    /// The network as sparse kernels; `None` where a device is to compute it.
    ///
    /// # Errors
    /// An unknown device or engine; when sparse execution is asked for and cannot be.
    pub fn predictor(self, network: &LoadedNetwork, device: &DeviceArgs) -> Result<Option<SparsePredictor>> {
        let sparse = match (self.execution, masked_only(network, device)?) {
            (Execution::Masked, _) => false,
            (Execution::Sparse, Some(reason)) => {
                return Err(Usage(format!("--execution sparse: {reason}")).into());
            }
            (Execution::Sparse, None) => true,
            (Execution::Auto, reason) => {
                reason.is_none() && prediction_gains(density(network), &network.model.input_dims())
            }
        };
        if !sparse {
            return Ok(None);
        }
        match SparsePredictor::new(network.inference(), &network.weights) {
            Ok(predictor) => Ok(Some(predictor)),
            Err(error @ Error::NotSparse { .. }) if self.execution == Execution::Auto => {
                report::detail(|| error.to_string());
                Ok(None)
            }
            Err(error @ Error::NotSparse { .. }) => Err(Usage(error.to_string()).into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Share of the dense network's multiply-adds that its connections need.
fn density(network: &LoadedNetwork) -> f64 {
    let cost = network.cost();
    cost.sparse.total.plain_flops / cost.dense.total.plain_flops
}

/// The reason that prevents sparse kernels, if there is one.
fn masked_only(network: &LoadedNetwork, device: &DeviceArgs) -> Result<Option<String>> {
    let kind: DeviceKind = match &device.on.device {
        Some(kind) => DeviceKind::find(kind)?,
        None => DeviceKind::Cpu,
    };
    let engine: EngineKind = device.engine.as_deref().map_or(Ok(EngineKind::default()), str::parse)?;
    Ok(if kind != DeviceKind::Cpu {
        Some(format!("--device is {}, expected cpu", kind.name()))
    } else if engine != EngineKind::Pjrt {
        Some(format!("--engine is {engine}, expected none but pjrt"))
    } else if let Some(plugin) = &device.on.plugin {
        Some(format!("--plugin is {plugin}, expected none, as none is used"))
    } else if network.precision != Precision::F32 {
        Some(format!("precision is {}, expected f32", network.precision.name()))
    } else {
        None
    })
}
