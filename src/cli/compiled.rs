//! `rigl-xla cost --compiled`: the compiler's figures of the run's programs.

use serde::Serialize;

use crate::aot::by_layer::Profile;
use crate::cli::error::Result;
use crate::config::Plan;
use crate::engine::Pjrt;
use crate::report::table::{Style, Table};
use crate::report::units;
use crate::train::eval::{Inference, prediction};
use crate::train::exported::forward_of;
use crate::train::step::Trainer;
use hlo::DType;
use pjrt::Executable;

/// A compiled program.
#[derive(Serialize)]
pub struct Program {
    /// `inference` or `training iteration`.
    name: &'static str,
    /// Examples in a batch.
    batch: usize,
    /// Estimated operations per batch as executed, including zeros and, in training, masking. `None` if the plugin has
    /// no estimate.
    flops: Option<f64>,
    /// The same per example.
    flops_per_example: Option<f64>,
    /// Estimated bytes that instructions read and write.
    bytes_accessed: Option<f64>,
    /// Peak device memory, arguments included.
    peak_bytes: Option<i64>,
    argument_bytes: i64,
    output_bytes: i64,
    temp_bytes: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_layer: Option<Profile>,
}

/// Compiles a forward pass and a training iteration with its mask update, for the run's batch or a replica's part of
/// it; with their layers if `by_layer`.
///
/// # Errors
/// A device that cannot be started, or programs that do not compile.
pub fn programs(plan: &Plan, by_layer: bool) -> Result<Vec<Program>> {
    plan.engine().only_pjrt("what a compiler says of a program")?;
    let device = Pjrt::open(plan.run.device.kind, plan.plugin(), plan.replicas())?;
    let (model, batch) = (plan.model(), plan.replica_batch());
    let mut one = plan.clone();
    one.run.train.steps_per_launch = 1;
    let trainer = Trainer { plan: &one, model };
    let own = || {
        let inference = prediction(Inference::new(plan, model), batch, DType::F32)?;
        let fixed = inference.parameters.len() - 1;
        Ok((inference, fixed))
    };
    let (inference, fixed) = forward_of(plan)?.map_or_else(own, Ok::<_, hlo::Error>)?;
    let inference = device.lowered_executable(&device.prepared(&inference, fixed)?.rest, &[], 1)?;
    let (step, aliases) = trainer.launch(batch)?;
    let step = device.executable(&step, &aliases, plan.replicas())?;
    Ok(vec![
        program("inference", batch, &inference, by_layer)?,
        program("training iteration", batch, &step, by_layer)?,
    ])
}

fn program(name: &'static str, batch: usize, executable: &Executable, by_layer: bool) -> Result<Program> {
    let profile = || Profile::of(executable.compiled(), None);
    let costs = executable.compiled().cost_analysis()?.unwrap_or_default();
    let number = |key: &str| costs.get(key)?.as_f64();
    let memory = executable.compiled().memory_stats()?;
    let flops = number("flops");
    Ok(Program {
        name,
        batch,
        flops,
        flops_per_example: flops.map(|flops| flops / batch as f64),
        bytes_accessed: number("bytes accessed"),
        peak_bytes: memory.peak_bytes,
        argument_bytes: memory.argument_bytes,
        output_bytes: memory.output_bytes,
        temp_bytes: memory.temp_bytes,
        by_layer: by_layer.then(profile).transpose()?,
    })
}

/// The layers of each program, if they were asked for.
pub fn by_layer(programs: &[Program], style: Style) -> String {
    let of = |program: &Program| {
        let layers = super::by_layer::text(program.by_layer.as_ref()?, style);
        Some(format!("\n{}\n\n{layers}", program.name))
    };
    programs.iter().filter_map(of).collect()
}

/// Formats the programs as a table, rounded in text.
pub fn table(programs: &[Program], style: Style) -> Table {
    let mut table = Table::new(&[
        "compiled",
        "batch",
        "FLOPs",
        "per example",
        "accessed",
        "peak",
        "arguments",
        "temporaries",
    ]);
    let [count, bytes] = units::forms(style);
    let shown = |value: Option<f64>, form: fn(f64) -> String| value.map_or("-".to_owned(), form);
    for program in programs {
        table.row([
            program.name.to_owned(),
            program.batch.to_string(),
            shown(program.flops, count),
            shown(program.flops_per_example, count),
            shown(program.bytes_accessed, bytes),
            shown(program.peak_bytes.map(|peak| peak as f64), bytes),
            bytes(program.argument_bytes as f64),
            bytes(program.temp_bytes as f64),
        ]);
    }
    table
}
