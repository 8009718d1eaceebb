//! Many runs as one experiment: seeds and settings ([`mod@file`]), each run a process of its own ([`schedule`]), one table
//! at the end ([`results`]).
//!
//! The state of a sweep is in the folders of its runs and nowhere else ([`outcome`]), so that one that was killed goes on
//! with the same command.

mod error;
pub mod estimate;
pub mod file;
pub mod outcome;
pub mod results;
pub mod schedule;
mod seeds;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::config::{self, Layers, Plan, preset_of};
use file::{Settings, Spec};

pub use error::{Error, MAX_JOBS, Result};
pub use seeds::Seeds;

/// One run of a sweep.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name in messages: its folder below that of the sweep.
    pub name: String,
    /// Settings that tell it from other jobs, without its seed.
    pub settings: Vec<(String, String)>,
    /// Its seed.
    pub seed: u64,
    /// The run; its folder is [`Plan::output_dir`].
    pub plan: Plan,
}

/// Puts the flags of the command line over the layers of a job.
pub type Flags<'a> = &'a dyn Fn(Layers) -> Result<Layers, config::Error>;

/// The jobs of a file, in its order, seeds last. `flags` are put over the settings of each.
///
/// # Errors
/// The first setting that is wrong, more than [`MAX_JOBS`] jobs, or two jobs with one folder.
pub fn jobs(spec: &Spec, flags: Flags) -> Result<Vec<Job>> {
    let seeds = spec.seeds.as_ref().map_or(1, |seeds| seeds.0.len());
    check_count(seeds.saturating_mul(spec.points.len()))?;
    let mut jobs = vec![];
    for point in &spec.points {
        let name = name(point);
        let in_job = |source: config::Error| Error::Job {
            job: if name.is_empty() {
                "of the sweep".into()
            } else {
                name.clone()
            },
            source: Box::new(source),
        };
        let layers = flags(layers(spec, point).map_err(in_job)?).map_err(in_job)?;
        for seed in of_each(spec.seeds.as_ref()) {
            jobs.push(job(&spec.out, &name, point, layers.clone(), seed).map_err(in_job)?);
        }
    }
    check_folders(&jobs)?;
    Ok(jobs)
}

/// Jobs that differ only in their seed, each in its own folder: `seed<N>` below `out`, by default that of the run.
///
/// # Errors
/// As [`jobs`].
pub fn seeded(layers: &Layers, out: Option<&Path>, seeds: &Seeds) -> Result<Vec<Job>> {
    check_count(seeds.0.len())?;
    let one = |&seed: &u64| match out {
        Some(out) => Ok(job(out, "", &vec![], layers.clone(), Some(seed))?),
        None => {
            let plan = with_seed(layers.clone(), seed)?.plan()?;
            let folder = plan.output_dir.file_name().unwrap_or_default();
            Ok(Job {
                name: folder.to_string_lossy().into_owned(),
                settings: vec![],
                seed,
                plan,
            })
        }
    };
    let jobs: Vec<Job> = seeds.0.iter().map(one).collect::<Result<_>>()?;
    check_folders(&jobs)?;
    Ok(jobs)
}

fn check_count(found: usize) -> Result<()> {
    match (1..=MAX_JOBS).contains(&found) {
        true => Ok(()),
        false => Err(Error::Jobs { found }),
    }
}

fn check_folders(jobs: &[Job]) -> Result<()> {
    let mut folders = BTreeSet::new();
    match jobs.iter().find(|job| !folders.insert(&job.plan.output_dir)) {
        None => Ok(()),
        Some(job) => Err(Error::SameFolder {
            path: job.plan.output_dir.clone(),
        }),
    }
}

/// Each seed; nothing once, if there are none.
fn of_each(seeds: Option<&Seeds>) -> Vec<Option<u64>> {
    seeds.map_or(vec![None], |seeds| seeds.0.iter().copied().map(Some).collect())
}

fn with_seed(layers: Layers, seed: u64) -> Result<Layers, config::Error> {
    // Within the range of a signed number, as `Seeds` checks.
    layers.set("--seeds", &["train", "seed"], seed as i64)
}

fn job(
    out: &Path,
    name: &str,
    settings: &Settings,
    mut layers: Layers,
    seed: Option<u64>,
) -> Result<Job, config::Error> {
    let mut folder = PathBuf::from(name);
    if let Some(seed) = seed {
        layers = with_seed(layers, seed)?;
        folder.push(format!("seed{seed}"));
    }
    let path = out.join(&folder);
    layers = layers.set("output.dir", &["output", "dir"], path.to_string_lossy().into_owned())?;
    let mut plan = layers.plan()?;
    plan.output_dir = path;
    let shown = |(key, value): &(String, Value)| (key.clone(), text(value));
    Ok(Job {
        name: folder.to_string_lossy().into_owned(),
        settings: settings.iter().map(shown).collect(),
        seed: plan.run.train.seed,
        plan,
    })
}

/// The configuration of one combination, without its seed.
fn layers(spec: &Spec, point: &Settings) -> Result<Layers, config::Error> {
    let find = |key: &str| {
        let found = point.iter().chain(&spec.set).find(|(known, _)| known == key);
        found.and_then(|(_, value)| value.as_str())
    };
    let method = find("method.name").and_then(|name| Some(sparse::Method::find(name).ok()?.name));
    let recipe = || preset_of(find("model.name"), method);
    let preset = find("preset").or(spec.preset.as_deref()).unwrap_or_else(recipe);
    let mut layers = Layers::preset(preset)?;
    if let Some(config) = &spec.config {
        layers = layers.file(config)?;
    }
    if let Some(model) = find("model.name").filter(|model| layers.run().is_ok_and(|run| run.model.name != **model)) {
        let only_name: Table = [("name".to_owned(), model.into())].into_iter().collect();
        layers = layers.with_model("model.name", only_name)?;
    }
    let origin = spec.path.display().to_string();
    for (key, value) in spec.set.iter().chain(point).filter(|(key, _)| key != "preset") {
        let path: Vec<&str> = key.split('.').collect();
        layers = layers.set(&format!("{origin}: {key}"), &path, value.clone())?;
    }
    Ok(layers)
}

/// A value in names and tables.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Float(number) if *number != 0.0 && !(1e-4..1e9).contains(&number.abs()) => format!("{number:e}"),
        Value::Float(number) => number.to_string(),
        other => other.to_string(),
    }
}

/// Longest name of a folder.
const LONGEST: usize = 100;

/// The folder of a combination: its settings, with a digest where they are long or have characters that folders should not. It
/// depends on them alone, so that a sweep whose file has grown finds its runs again.
fn name(point: &Settings) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._=+-".contains(c);
    let part = |(key, value): &(String, Value)| match (key.as_str(), text(value)) {
        ("method.name" | "model.name" | "preset", value) => value,
        (key, value) => format!("{}={value}", key.rsplit('.').next().unwrap_or(key)),
    };
    let full = point.iter().map(part).collect::<Vec<_>>().join("-");
    let mut name: String = full
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .take(LONGEST)
        .collect();
    if name != full || name.starts_with('.') {
        let all: Vec<String> = point.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let digest = Sha256::digest(all.join("\n"));
        name += "-";
        name.extend(digest.iter().take(3).map(|byte| format!("{byte:02x}")));
    }
    name.trim_start_matches('.').to_owned()
}
