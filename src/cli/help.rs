//! Arrangement of the help: groups of flags, what the short help leaves out, examples, and hints for completion.
//!
//! Flags are defined beside what they do; this file only sorts them, by name.

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, CommandFactory, ValueHint};

use super::Cli;
use super::run_args::KeyFlags;
use crate::config::{CHOOSING, PRESETS};
use crate::data::sets::DATA_SETS;
use pjrt::DeviceKind;

/// A group of flags under one heading.
struct Group {
    heading: &'static str,
    /// Flags that every help shows.
    common: &'static [&'static str],
    /// Flags that only `--help` shows where a command has many.
    rare: &'static [&'static str],
}

#[rustfmt::skip] // one line per list
const GROUPS: [Group; 8] = [
    Group {
        heading: "Network",
        common: &["model"],
        rare: &["width", "depth", "image_size", "precision", "matmul_precision", "gradient_precision", "sync_bn"],
    },
    Group {
        heading: "Sparsity",
        common: &["method", "sparsity", "distribution", "custom"],
        rare: &["first_layer_sparsity", "last_layer_sparsity", "depthwise_sparsity", "power_scale", "rounding", "mask_seed_compat", "select", "allow_incomplete_schedule", "layers"],
    },
    Group {
        heading: "Data",
        common: &["data", "validation"],
        rare: &["data_threads", "skip_corrupt"],
    },
    Group {
        heading: "Training",
        common: &["steps", "multiplier", "batch_size", "lr", "seed", "init"],
        rare: &["init_masks", "init_prune", "init_state", "accumulate", "freeze", "steps_per_launch"],
    },
    Group {
        heading: "Evaluations, checkpoints and stopping",
        common: &["out", "resume", "overwrite", "keep_best", "patience", "stop_flops", "stop_time"],
        rare: &["eval_interval", "eval_epochs", "checkpoint_interval", "keep_checkpoints", "keep_every", "profile", "no_tensorboard", "no_topology"],
    },
    Group {
        heading: "Several runs",
        common: &["seeds", "jobs", "dry_run", "topology"],
        rare: &["devices", "retry_failed", "no_measure"],
    },
    Group {
        heading: "Device",
        common: &["device", "execution", "replicas"],
        rare: &["plugin", "engine", "condensed", "num_processes", "process_id", "etcd", "join_timeout", "heartbeat_timeout"],
    },
    Group {
        heading: "Configuration and output",
        common: &["config", "set", "json", "csv", "markdown", "quiet", "verbose"],
        rare: &[],
    },
];

/// Flags from which the short help of a command leaves the rare ones out.
const MANY: usize = 25;

/// An example of every command.
#[rustfmt::skip] // one line per command
const EXAMPLES: &[(&str, &str)] = &[
    ("train", "rigl-xla train --method set --sparsity 0.95 --steps 6000 --keep-best top1"),
    ("sweep", "rigl-xla sweep methods.toml --dry-run"),
    ("eval", "rigl-xla eval --checkpoint runs/mnist-rigl-0.98-seed0"),
    ("predict", "rigl-xla predict --checkpoint runs/mnist-rigl-0.98-seed0 --input images.safetensors --output logits.safetensors"),
    ("compact", "rigl-xla compact --checkpoint runs/mnist-rigl-0.98-seed0 --output net.safetensors --format bitmask"),
    ("convert", "rigl-xla convert model.ckpt-32000 weights.safetensors"),
    ("verify", "rigl-xla verify runs/mnist-rigl-0.98-seed0"),
    ("report", "rigl-xla report runs/methods/rigl/seed0 runs/methods/set/seed0"),
    ("topology", "rigl-xla topology runs/mnist-rigl-0.98-seed0"),
    ("export", "rigl-xla export --checkpoint runs/mnist-rigl-0.98-seed0 --format onnx --output net.onnx"),
    ("plan", "rigl-xla plan resnet50-rigl --sparsity 0.9"),
    ("cost", "rigl-xla cost resnet50-rigl-erk-0.9 --markdown"),
    ("presets", "rigl-xla presets resnet50"),
    ("dump-hlo", "rigl-xla dump-hlo --graph step --output step.txt"),
    ("compile", "rigl-xla compile resnet50-rigl --device tpu --topology v5e:2x2"),
    ("data", "rigl-xla data fetch mnist"),
    ("data fetch", "rigl-xla data fetch mnist"),
    ("data inspect", "rigl-xla data inspect pictures/"),
    ("data prepare", "rigl-xla data prepare --train pictures/train --validation pictures/val records/"),
    ("data dump", "rigl-xla data dump --data mnist --split train --output examples.safetensors"),
    ("plugin", "rigl-xla plugin list"),
    ("plugin list", "rigl-xla plugin list --markdown"),
    ("plugin fetch", "rigl-xla plugin fetch cpu"),
    ("plugin doctor", "rigl-xla plugin doctor --device cpu"),
    ("completions", "rigl-xla completions bash > ~/.local/share/bash-completion/completions/rigl-xla"),
    ("man", "rigl-xla man ~/.local/share/man/man1"),
];

/// The command line with its help arranged.
pub fn command() -> Command {
    arranged(Cli::command(), "")
}

/// Arranges a command and those below it; `path` is its name below the program.
fn arranged(command: Command, path: &str) -> Command {
    let many = command.get_arguments().count() > MANY;
    let mut command = command.mut_args(|arg| arranged_arg(arg, many));
    if let Some((_, example)) = EXAMPLES.iter().find(|(name, _)| *name == path) {
        let example = format!("Example: {example}");
        let with =
            |text: Option<String>| text.map_or(example.clone(), |text| format!("{}\n\n{example}", text.trim_end()));
        let long = command
            .get_after_long_help()
            .or(command.get_after_help())
            .map(ToString::to_string);
        let short = command.get_after_help().map(ToString::to_string);
        command = command.after_long_help(with(long)).after_help(with(short));
    }
    command.mut_subcommands(|below| {
        let path = format!("{path} {}", below.get_name());
        arranged(below, path.trim_start())
    })
}

fn arranged_arg(arg: Arg, many: bool) -> Arg {
    let id = arg.get_id().to_string();
    let mut arg = match hint(&arg) {
        Some(hint) => arg.value_hint(hint),
        None => arg,
    };
    if arg.is_positional() {
        return arg;
    }
    let group = GROUPS
        .iter()
        .find(|group| group.common.contains(&&*id) || group.rare.contains(&&*id));
    if let Some(group) = group {
        arg = arg
            .help_heading(group.heading)
            .hide_short_help(many && group.rare.contains(&&*id));
    }
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    match KeyFlags::NAMES.contains(&&*id)
        && !help.contains("[default")
        && arg.get_num_args().is_none_or(|n| n.takes_values())
    {
        true => arg.help(format!("{help} [default: from the recipe]")),
        false => arg,
    }
}

/// How shells complete the value of a flag.
fn hint(arg: &Arg) -> Option<ValueHint> {
    let names = arg.get_value_names()?;
    match names.first()?.as_str() {
        "FILE" | "PATH" | "FILE|PACKAGE" | "CHECKPOINT" => Some(ValueHint::AnyPath),
        "DIR" | "NAME|DIR" | "RUN" => Some(ValueHint::DirPath),
        _ => None,
    }
}

/// The command line for generated completions: values that are names from a table are completed.
pub fn completed() -> Command {
    with_names(command())
}

fn with_names(command: Command) -> Command {
    let command = command.mut_args(|arg| match names(arg.get_id().as_str()) {
        Some(names) => arg.value_parser(PossibleValuesParser::new(names)),
        None => arg,
    });
    command.mut_subcommands(with_names)
}

/// The names that a flag takes, from the tables.
fn names(id: &str) -> Option<Vec<&'static str>> {
    Some(match id {
        "method" => sparse::METHODS.iter().map(|method| method.name).collect(),
        "preset" => PRESETS.iter().map(|(name, _)| *name).collect(),
        "keep_best" => CHOOSING.iter().map(|metric| metric.name).collect(),
        "device" => DeviceKind::ALL.iter().map(|kind| kind.name()).collect(),
        "data" => DATA_SETS.iter().map(|set| set.name).collect(),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn commands(command: &Command, path: &str, out: &mut Vec<(String, Command)>) {
        for below in command.get_subcommands() {
            let path = format!("{path} {}", below.get_name()).trim_start().to_owned();
            out.push((path.clone(), below.clone()));
            commands(below, &path, out);
        }
    }

    #[test]
    fn every_command_has_an_example_that_parses() {
        let mut all = vec![];
        commands(&command(), "", &mut all);
        for (path, _) in &all {
            let example = EXAMPLES.iter().find(|(name, _)| name == path);
            let (_, example) = example.unwrap_or_else(|| panic!("{path} has no example in EXAMPLES"));
            let words = example.split(" > ").next().unwrap().split_whitespace();
            let parsed = command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn every_flag_of_train_has_a_group() {
        let train = Cli::command().find_subcommand("train").unwrap().clone();
        let grouped = |id: &str| {
            GROUPS
                .iter()
                .any(|group| group.common.contains(&id) || group.rare.contains(&id))
        };
        let flags = train.get_arguments().filter(|arg| !arg.is_positional());
        let left: Vec<&str> = flags
            .map(|arg| arg.get_id().as_str())
            .filter(|id| !grouped(id))
            .collect();
        assert!(left.is_empty(), "{left:?} are in no group of GROUPS");
    }
}
