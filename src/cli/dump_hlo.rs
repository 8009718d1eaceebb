//! `rigl-xla dump-hlo`.

use std::path::PathBuf;

use std::io::{self, IsTerminal};

use hlo::{Alias, Computation, text};

use super::run_args::RunArgs;
use crate::cli::error::{Result, Usage, bail};
use crate::config::Plan;
use crate::engine::Pjrt;
use crate::train::eval::{Inference, batch_evaluation, evaluation};
use crate::train::exported::evaluation_of;
use crate::train::step::Trainer;

/// Arguments of `dump-hlo`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Graph to write
    #[arg(long, value_enum, default_value_t)]
    graph: Graph,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write the graph after compilation by the plugin
    #[arg(long)]
    optimized: bool,
    /// Output file [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A graph of a run.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
pub enum Graph {
    /// One launch: the device loop over training iterations
    #[default]
    Step,
    /// One mask update
    Update,
    /// Evaluation of the whole test set, in batches
    Eval,
}

/// Output format of a graph.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
pub enum Format {
    /// HLO text
    #[default]
    Text,
    /// Binary HloModuleProto
    Proto,
    /// Graphviz
    Dot,
    /// StableHLO, as MLIR text
    Stablehlo,
}

/// Runs `dump-hlo`.
///
/// # Errors
/// A run that cannot be built or, with `--optimized`, compiled; an output that cannot be written.
pub fn run(args: Args, json: bool) -> Result<()> {
    args.output.as_deref().map_or(Ok(()), super::check_output)?;
    let plan = args.run.layers()?.plan()?;
    if json && args.output.is_none() {
        let why = "--json needs --output: standard output takes either the object or the graph";
        return Err(Usage(why.into()).into());
    }
    if args.optimized && matches!(args.format, Format::Stablehlo) {
        return Err(Usage(
            "--format stablehlo: compilers give their programs as HLO only; leave out --optimized".into(),
        )
        .into());
    }
    if plan.exported.is_some() && matches!(args.format, Format::Stablehlo) {
        let why = "--format stablehlo: the programs of an exported model are HLO; give --format proto or text";
        return Err(Usage(why.into()).into());
    }
    let (computation, aliases) = args.build(&plan)?;
    let instructions = computation.instruction_count();
    let bytes = match (args.optimized, args.format) {
        (true, format) => optimized(&plan, &computation, &aliases, format)?,
        (false, Format::Text) => text::dump(&computation).into_bytes(),
        (false, Format::Proto) => computation.to_bytes(&aliases),
        (false, Format::Dot) => text::dot(&computation).into_bytes(),
        (false, Format::Stablehlo) => computation.to_stablehlo(&aliases).into_bytes(),
    };
    match &args.output {
        Some(path) => {
            super::write_file(path, &bytes)?;
            let report = serde_json::json!({ "output": path.display().to_string(), "instructions": instructions, "bytes": bytes.len() });
            if json { super::print_json(&report) } else { Ok(()) }
        }
        None if matches!(args.format, Format::Proto) && io::stdout().is_terminal() => {
            bail!("--format proto is binary; give it --output")
        }
        None => super::write_output(&bytes),
    }
}

impl Args {
    fn build(&self, plan: &Plan) -> Result<(Computation, Vec<Alias>)> {
        let model = plan.model();
        let generated = plan.run.generated_examples();
        let [train_examples, test_examples] = plan.run.data.set.examples([generated; 2]);
        let trainer = Trainer { plan, model };
        Ok(match self.graph {
            Graph::Step => trainer.launch(plan.run.training_examples(train_examples))?,
            Graph::Update if !plan.method.updates_masks() => {
                let why = format!("--graph update: method {} has no mask update", plan.method.name);
                return Err(Usage(why).into());
            }
            Graph::Update => (trainer.update()?, vec![]),
            Graph::Eval if plan.exported.is_some() => match evaluation_of(plan)? {
                Some(graph) => (graph, vec![]),
                None => bail!("--graph eval: the model has no evaluation"),
            },
            Graph::Eval => {
                let batch = plan.run.train.eval_batch_size;
                let network = Inference::new(plan, model);
                let graph = match plan.streams() {
                    true => batch_evaluation(network, batch.min(test_examples).div_ceil(network.replicas)),
                    false => evaluation(network, test_examples, batch),
                };
                (graph?, vec![])
            }
        })
    }
}

/// Returns the graph after compilation by the plugin.
fn optimized(plan: &Plan, computation: &Computation, aliases: &[Alias], format: Format) -> Result<Vec<u8>> {
    plan.engine().only_pjrt("--optimized: the graph as compiled")?;
    let device = Pjrt::open(plan.run.device.kind, plan.plugin(), plan.replicas())?;
    let executable = device.executable(computation, aliases, plan.replicas())?;
    let bytes = executable.compiled().optimized_hlo()?;
    Ok(match format {
        Format::Proto => bytes,
        Format::Text | Format::Stablehlo => text::dump_module(&text::read_module(&bytes)?).into_bytes(),
        Format::Dot => text::dot_module(&text::read_module(&bytes)?).into_bytes(),
    })
}
