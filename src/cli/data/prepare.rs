//! `rigl-xla data prepare`: converts pictures to TFRecord shards.

use std::path::PathBuf;

use crate::cli::error::{Result, Usage};
use crate::cli::table_args::TableArgs;
use crate::data::named;
use crate::data::prepare::{Error, Plan, Request, Written};
use crate::report::note;
use crate::report::table::{Style, Table};
use crate::signals::Stop;

/// Arguments of `data prepare`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// New folder for the shards; it appears when complete
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Training pictures: a folder or tar file of classes, or a folder with MNIST or CIFAR-10
    #[arg(long, value_name = "PATH", required_unless_present = "validation")]
    train: Option<PathBuf>,
    /// Validation pictures, in any of the same forms
    #[arg(long, value_name = "PATH")]
    validation: Option<PathBuf>,
    /// List of the classes of unclassified validation pictures, one line per picture, in the order of their names
    #[arg(long, value_name = "FILE", requires = "validation")]
    validation_classes: Option<PathBuf>,
    /// List of classes in label order, one per line: name, a space, and a description [default: sorted by name]
    #[arg(long, value_name = "FILE")]
    synsets: Option<PathBuf>,
    /// Number of training shards [default: one per 1251 pictures, at most 1024]
    #[arg(long, value_name = "N")]
    train_shards: Option<usize>,
    /// Number of validation shards [default: one per 1251 pictures, at most 128]
    #[arg(long, value_name = "N")]
    validation_shards: Option<usize>,
    /// Seed of the shuffle
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Compress the shards. Random access unpacks them to a temporary file in the cache folder first
    #[arg(long)]
    gzip: bool,
    /// Number of unreadable pictures to skip before it is an error; each is reported
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_corrupt: usize,
    /// Number of threads; does not affect the shards [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    table: TableArgs,
}

const HELP: &str = "\
Folders and tar files hold a folder or tar file for each class with .jpeg, .jpg or .png files in it, as ImageNet's do: the \
training archive is a tar file of tar files, the validation archive holds pictures alone, whose classes \
--validation-classes lists. Pictures are stored as they are.

Shards of pictures are named train-00000-of-01024 and validation-00000-of-00128 and have the features of the official files: \
image/encoded, image/class/label (from 1, in the order of the classes), image/class/synset, image/class/text, image/format, \
image/height, image/width, image/colorspace, image/channels, image/filename, and image/object/bbox/* (empty).

Shards of MNIST and CIFAR-10 are named train-* and test-* and have the features of TensorFlow's data sets: image (a PNG) and \
label (from 0).";

/// Runs `data prepare`.
///
/// # Errors
/// Sources that cannot be read or contradict each other, an existing folder, or I/O errors.
pub fn run(args: Args, json: bool, stop: &Stop) -> Result<()> {
    let style = args.table.style(json)?;
    let threads = args.threads.unwrap_or_else(crate::threads::cores);
    if threads == 0 {
        return Err(Usage("--threads 0: expected at least 1".into()).into());
    }
    let plan = Plan::new(&Request {
        train: args.train,
        validation: args.validation,
        validation_classes: args.validation_classes,
        synsets: args.synsets,
        shards: [args.train_shards, args.validation_shards],
        seed: args.seed,
        gzip: args.gzip,
        skip_corrupt: args.skip_corrupt,
    })?;
    let written = {
        let progress = super::Counted::new(plan.examples() as u64, "pictures");
        match plan.write(&args.output, threads, stop, &|| progress.add()) {
            Err(Error::Stopped) => {
                note!("stopped; nothing is left behind");
                return Err(crate::cli::Error::stopped(stop));
            }
            written => written?,
        }
    };
    written.iter().for_each(notes);
    match json {
        true => {
            crate::cli::print_json(&serde_json::json!({"output": args.output.display().to_string(), "sets": written}))
        }
        false => crate::cli::print(&table(&written, style)),
    }
}

/// Names of ignored files and of classes without pictures.
fn notes(set: &Written) {
    let name = set.set;
    let names = |names: &[String]| named(names.iter().cloned());
    if set.left_out > 0 {
        note!(
            "note: {name}: no pictures by their names, not read: {}",
            names(&set.left_out_names)
        );
    }
    if !set.empty_classes.is_empty() {
        let (n, all, first) = (
            set.empty_classes.len(),
            set.classes,
            set.empty_classes.iter().take(5).cloned(),
        );
        let first = first.collect::<Vec<_>>().join(", ");
        note!("note: {name}: {n} of {all} classes have no pictures, and keep their labels: {first}");
    }
    if !set.skipped.is_empty() {
        note!("note: {name}: {} pictures were skipped:", set.skipped.len());
        set.skipped.iter().for_each(|fault| note!("  {fault}"));
    }
}

fn table(written: &[Written], style: Style) -> String {
    let mut table = Table::new(&["set", "examples", "classes", "shards", "bytes"]);
    for set in written {
        let numbers = [set.examples as u64, set.classes as u64, set.shards as u64, set.bytes];
        let numbers = numbers.map(|number| number.to_string());
        table.row([set.set.to_owned()].into_iter().chain(numbers));
    }
    table.write(style)
}
