//! `rigl-xla data dump`: writes examples as training or evaluation receives them.

use std::path::PathBuf;
use std::sync::Arc;

use hlo::{DType, Graph, Literal, Shape};
use serde_json::json;

use crate::checkpoint::{self, Metadata};
use crate::cli::error::{Context, Result};
use crate::cli::input_args::{StreamArgs, any_data_help, named_set};
use crate::data::batches::BatchOrder;
use crate::data::pipeline::{Order, Part, Source};
use crate::data::records::Records;
use crate::data::sets::{DataSet, ExampleSpec, Examples};
use crate::data::{Dataset, Split, imagenet};
use crate::named;
use crate::report::note;

/// Arguments of `data dump`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Data set or folder
    #[arg(long, value_name = "NAME|DIR", help = data_help())]
    data: String,
    /// Training examples, in the order and with the augmentation of the first epoch; or test examples in file order
    #[arg(long, value_enum)]
    split: SplitName,
    /// Maximum number of examples
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Output file in safetensors format with the tensors `images` and `labels`; from TFRecords also `offset` and
    /// `file`, an index into the list `files` of the metadata
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Height and width of an image [default: the data set's; for TFRecords 224]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    image_size: Option<u32>,
    /// Write images as the first layer sees them, which `predict` accepts. By default they are as sent to the device,
    /// from 0 to 255, which is what the original gives its model
    #[arg(long)]
    normalised: bool,
    /// Decoding and resizing of pictures in TFRecords: original or antialiased
    #[arg(long, value_name = "NAME", default_value = "original", value_parser = named::flag::<imagenet::Kind>)]
    pictures: imagenet::Kind,
    /// Do not augment training examples
    #[arg(long)]
    no_augment: bool,
    /// Seed of the training order and of augmentation
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    stream: StreamArgs,
}

/// Help of `--data`.
fn data_help() -> String {
    any_data_help().replace(" [default: the data of the run]", "")
}

/// A split, with the names accepted for it.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
enum SplitName {
    Train,
    #[value(alias = "validation")]
    Test,
}

/// Examples to write.
struct Dump {
    images: Vec<u8>,
    labels: Vec<i32>,
    /// For TFRecords: index of the file, and offset in it.
    places: Vec<(usize, u64)>,
    files: Vec<String>,
    skipped: usize,
}

/// Runs `data dump`.
///
/// # Errors
/// Examples that cannot be loaded, or an output that cannot be written.
pub fn run(args: Args, json: bool) -> Result<()> {
    crate::cli::check_output(&args.output)?;
    let (set, folder) = named_set(&args.data)?;
    let dims = args.dims(set);
    let limit = args.limit as usize;
    let spec = ExampleSpec {
        dims: &dims,
        classes: set.classes,
        examples: [limit; 2],
        seed: args.seed,
        pictures: args.pictures,
        skip_corrupt: args.stream.skip_corrupt,
    };
    let split = args.split();
    let examples = set.open(folder, split, &spec)?;
    let (image, n) = (examples.image(), limit.min(examples.len()));
    let dump = match examples {
        Examples::Whole(set) => args.whole(&set, n)?,
        Examples::Records(records) => args.records(&records, n)?,
        Examples::Arrays(_) => return Err(crate::data::Error::OnlyExported.into()),
    };
    let images = args.images(set, &image, dump.images)?;
    let labels = Literal::new(&[dump.labels.len()], &dump.labels);
    let mut tensors = vec![("images".to_string(), images), ("labels".to_string(), labels)];
    let mut metadata = Metadata::new("", 0, "");
    if !dump.files.is_empty() {
        let (files, offsets): (Vec<i32>, Vec<i64>) = dump.places.iter().map(|&(f, at)| (f as i32, at as i64)).unzip();
        tensors.push(("file".to_string(), Literal::new(&[files.len()], &files)));
        tensors.push(("offset".to_string(), Literal::new(&[offsets.len()], &offsets)));
        metadata.extra.insert("files".into(), dump.files.join("\n"));
    }
    let report = json!({
        "output": args.output.display().to_string(),
        "examples": dump.labels.len(),
        "images": tensors[0].1.shape().to_string(),
        "skipped": dump.skipped,
    });
    checkpoint::save(&args.output, &tensors.into_iter().collect(), &metadata)?;
    match json {
        true => crate::cli::print_json(&report),
        false => crate::cli::print(&format!(
            "{} examples, images {}, in {}\n",
            dump.labels.len(),
            report["images"].as_str().unwrap_or_default(),
            args.output.display()
        )),
    }
}

impl Args {
    fn split(&self) -> Split {
        match self.split {
            SplitName::Train => Split::Train,
            SplitName::Test => Split::Test,
        }
    }

    /// Dimensions of an image.
    fn dims(&self, set: &DataSet) -> Vec<usize> {
        match (self.image_size, set.dims) {
            (None, Some(dims)) => dims.to_vec(),
            (size, _) => {
                let size = size.map_or(224, |size| size as usize);
                vec![size, size, 3]
            }
        }
    }

    fn whole(&self, set: &Dataset, n: usize) -> Result<Dump> {
        let indices: Vec<usize> = match self.split() {
            Split::Train => {
                let mut order = BatchOrder::new(set.len(), n, self.seed)?;
                order.indices(0, 1).into_iter().map(|i| i as usize).collect()
            }
            Split::Test => (0..n).collect(),
        };
        let bytes = set.images.bytes().len() / set.len();
        let labels: Vec<i32> = set.labels.to_vec().context("labels")?;
        let image = |&i: &usize| &set.images.bytes()[i * bytes..][..bytes];
        Ok(Dump {
            images: indices.iter().flat_map(image).copied().collect(),
            labels: indices.iter().map(|&i| labels[i]).collect(),
            places: vec![],
            files: vec![],
            skipped: 0,
        })
    }

    fn records(&self, records: &Arc<Records>, n: usize) -> Result<Dump> {
        const BATCH: usize = 16;
        let batch = BATCH.min(n);
        let order = match self.split() {
            Split::Train => Order::shuffled(records.len(), batch, self.seed, !self.no_augment, Part::WHOLE)?,
            Split::Test => Order::in_turn(records.len(), batch, Part::WHOLE),
        };
        let mut pipeline = Arc::clone(records).pipeline(order, self.stream.options(batch), 0)?;
        let bytes = records.image().bytes();
        let (mut images, mut labels, mut places) = (vec![], vec![], vec![]);
        let mut files: Vec<String> = vec![];
        while labels.len() < n
            && let Some(batch) = pipeline.take()?
        {
            let rows = (0..batch.indices.len()).filter(|&row| batch.present[row]);
            for row in rows.take(n - labels.len()) {
                images.extend_from_slice(&batch.images.bytes()[row * bytes..][..bytes]);
                labels.push(batch.labels[row]);
                let (path, offset) = records.place(batch.indices[row]);
                let path = path.display().to_string();
                let known = files.iter().position(|file| *file == path);
                places.push((known.unwrap_or(files.len()), offset));
                if known.is_none() {
                    files.push(path);
                }
            }
        }
        let skipped = pipeline.skipped();
        skipped.values().for_each(|fault| note!("left out: {fault}"));
        Ok(Dump {
            images,
            labels,
            places,
            files,
            skipped: records.damaged() + skipped.len(),
        })
    }

    /// Joins the images into one array, normalised if requested.
    fn images(&self, set: &DataSet, image: &Shape, bytes: Vec<u8>) -> Result<Literal> {
        let n = bytes.len() / image.bytes();
        let of = |n: usize, dtype| Shape::new(dtype, [&[n][..], &image.dims[..]].concat());
        if !self.normalised {
            return Literal::from_bytes(of(n, image.dtype), bytes).context("images");
        }
        let one = of(1, image.dtype);
        let graph = Graph::function("normalise", &[("images".to_string(), one.clone())], |_, inputs| {
            vec![set.preprocessing.apply(inputs[0])]
        })?;
        let mut normalised = Vec::with_capacity(n * of(1, DType::F32).bytes());
        for image in bytes.chunks_exact(one.bytes()) {
            let image = Literal::from_bytes(one.clone(), image.to_vec()).context("image")?;
            let results = graph.evaluate(&[image])?;
            normalised.extend_from_slice(results.first().context("image")?.bytes());
        }
        Literal::from_bytes(of(n, DType::F32), normalised).context("images")
    }
}
