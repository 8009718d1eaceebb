//! The file of a sweep: which runs it consists of.

use std::path::{Path, PathBuf};

use sparse::rng;
use toml::{Table, Value};

use super::error::MAX_JOBS;
use super::{Error, Result, Seeds};
use crate::config::MAX_CONFIG_BYTES;
use crate::files;

/// Settings of one run: dotted key and value, sorted by key.
pub type Settings = Vec<(String, Value)>;

/// A sweep as its file describes it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The file.
    pub path: PathBuf,
    /// Preset of all runs. Default: the recipe for the network and method of each.
    pub preset: Option<String>,
    /// Configuration over the preset, as of `--config`.
    pub config: Option<PathBuf>,
    /// Folder of the runs. Default: `runs/` and the name of the file.
    pub out: PathBuf,
    /// Seeds of each combination. Default: the seed of the recipe.
    pub seeds: Option<Seeds>,
    /// Runs at a time. Default: 1.
    pub jobs: Option<usize>,
    /// Settings of all runs.
    pub set: Settings,
    /// Settings of each run, without its seed.
    pub points: Vec<Settings>,
}

const KEYS: &str = "preset, config, out, seeds, jobs, set, grid, list, random";

impl Spec {
    /// Reads the file of a sweep.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or has an unknown key or a value of the wrong type.
    pub fn read(path: &Path) -> Result<Spec> {
        let text = files::read_text(path, MAX_CONFIG_BYTES).map_err(|source| Error::Read {
            path: path.into(),
            source,
        })?;
        let table: Table = text.parse().map_err(|source| Error::Toml {
            path: path.into(),
            source,
        })?;
        let name = path.file_stem().unwrap_or_default();
        let mut spec = Spec {
            path: path.into(),
            preset: None,
            config: None,
            out: Path::new("runs").join(name),
            seeds: None,
            jobs: None,
            set: vec![],
            points: vec![],
        };
        for (key, value) in &table {
            spec.take(key, value)?;
        }
        if spec.points.is_empty() {
            spec.points.push(vec![]);
        }
        Ok(spec)
    }

    fn take(&mut self, key: &str, value: &Value) -> Result<()> {
        let text = || value.as_str().ok_or_else(|| self.wrong(key, value, "text"));
        match key {
            "preset" => self.preset = Some(text()?.to_owned()),
            // Relative to the file, which may lie elsewhere.
            "config" => self.config = Some(self.path.with_file_name("").join(text()?)),
            "out" => self.out = text()?.into(),
            "seeds" => self.seeds = Some(self.seeds(value)?),
            "jobs" => {
                let jobs = value.as_integer().and_then(|n| usize::try_from(n).ok());
                let jobs = jobs.filter(|&n| n > 0);
                let wrong = || self.wrong(key, value, "a whole number of at least 1");
                self.jobs = Some(jobs.ok_or_else(wrong)?);
            }
            "set" => self.set = self.settings(key, value)?,
            "grid" => self.each(key, value, Spec::grid)?,
            "list" => self.each(key, value, |spec, key, value| Ok(vec![spec.settings(key, value)?]))?,
            "random" => self.each(key, value, Spec::random)?,
            _ => {
                let unknown = sparse::Error::unknown("key", key, KEYS.split(", "));
                return Err(Error::Value {
                    path: self.path.clone(),
                    key: key.to_owned(),
                    found: "unknown".into(),
                    expected: format!("one of {KEYS} ({unknown})"),
                });
            }
        }
        Ok(())
    }

    /// Adds the points of a table, or of each table of an array.
    fn each(
        &mut self,
        key: &str,
        value: &Value,
        points: impl Fn(&Spec, &str, &Value) -> Result<Vec<Settings>>,
    ) -> Result<()> {
        let one = std::slice::from_ref(value);
        for value in value.as_array().map_or(one, Vec::as_slice) {
            let more = points(self, key, value)?;
            self.points.extend(more);
            if self.points.len() > MAX_JOBS {
                return Err(Error::Jobs {
                    found: self.points.len(),
                });
            }
        }
        Ok(())
    }

    fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
        Error::Value {
            path: self.path.clone(),
            key: key.to_owned(),
            found: found.to_string(),
            expected: expected.to_owned(),
        }
    }

    fn seeds(&self, value: &Value) -> Result<Seeds> {
        let number = |value: &Value| value.as_integer().map(|n| n.to_string());
        let text = match value {
            Value::String(text) => Some(text.clone()),
            Value::Array(values) => {
                let numbers: Option<Vec<String>> = values.iter().map(number).collect();
                numbers.map(|numbers| numbers.join(","))
            }
            other => number(other),
        };
        let wrong = || self.wrong("seeds", value, "seeds such as \"0..4\" (0 to 4) or [1, 5, 7]");
        text.and_then(|text| text.parse().ok()).ok_or_else(wrong)
    }

    /// Dotted keys and values of a table of settings.
    fn settings(&self, key: &str, value: &Value) -> Result<Settings> {
        let table = value.as_table();
        let table = table.ok_or_else(|| self.wrong(key, value, "a table of settings"))?;
        Ok(flat(table, |_| false))
    }

    /// Every combination of the values of a table's arrays.
    fn grid(&self, key: &str, value: &Value) -> Result<Vec<Settings>> {
        let mut points: Vec<Settings> = vec![vec![]];
        for (setting, values) in self.settings(key, value)? {
            let at = format!("{key}.{setting}");
            let values = match &values {
                Value::Array(values) if !values.is_empty() => values,
                other => return Err(self.wrong(&at, other, "an array of values")),
            };
            if points.len().saturating_mul(values.len()) > MAX_JOBS {
                return Err(Error::Jobs {
                    found: points.len().saturating_mul(values.len()),
                });
            }
            let with = |point: &Settings, value: &Value| [&point[..], &[(setting.clone(), value.clone())]].concat();
            points = points
                .iter()
                .flat_map(|point| values.iter().map(move |value| with(point, value)))
                .collect();
        }
        Ok(points)
    }

    /// Samples of the distributions of a table.
    fn random(&self, key: &str, value: &Value) -> Result<Vec<Settings>> {
        let mut table = value
            .as_table()
            .cloned()
            .ok_or_else(|| self.wrong(key, value, "a table of distributions"))?;
        let mut number = |name: &str, default: Option<i64>| {
            let at = format!("{key}.{name}");
            let found = table.remove(name);
            let number = found.as_ref().map_or(default, Value::as_integer);
            let wrong = || self.wrong(&at, &found.clone().unwrap_or("missing".into()), "a whole number");
            number.and_then(|n| u64::try_from(n).ok()).ok_or_else(wrong)
        };
        let (samples, seed) = (number("samples", None)? as usize, number("seed", Some(0))?);
        if samples > MAX_JOBS {
            return Err(Error::Jobs { found: samples });
        }
        let drawn = flat(&table, |table| {
            Distribution::KEYS.iter().any(|key| table.contains_key(*key))
        });
        let distributions: Vec<(String, Distribution)> = drawn
            .into_iter()
            .map(|(setting, value)| {
                let at = format!("{key}.{setting}");
                let expected =
                    "{ of = [values] } or { from = number, to = number }, with scale = \"log\" or whole = true";
                let found = Distribution::read(&value).ok_or_else(|| self.wrong(&at, &value, expected))?;
                Ok((setting, found))
            })
            .collect::<Result<_>>()?;
        let sample = |index: usize| {
            let draw = |(setting, of): &(String, Distribution)| {
                let share = rng::stream(seed, "sweep", setting, index as u64).uniform_f64();
                (setting.clone(), of.at(share))
            };
            distributions.iter().map(draw).collect()
        };
        Ok((0..samples).map(sample).collect())
    }
}

/// Dotted keys and values of a table, down to tables that are `leaves`.
fn flat(table: &Table, leaf: impl Fn(&Table) -> bool + Copy) -> Settings {
    let mut settings = vec![];
    for (key, value) in table {
        match value {
            Value::Table(inner) if !inner.is_empty() && !leaf(inner) => {
                let inner = flat(inner, leaf).into_iter();
                settings.extend(inner.map(|(below, value)| (format!("{key}.{below}"), value)));
            }
            value => settings.push((key.clone(), value.clone())),
        }
    }
    settings.sort_by(|a, b| a.0.cmp(&b.0));
    settings
}

/// A distribution of values.
#[derive(Clone, Debug)]
enum Distribution {
    /// Each with the same probability.
    Of(Vec<Value>),
    /// Uniform over an interval, of the logarithm if `log`, rounded if `whole`.
    Between { from: f64, to: f64, log: bool, whole: bool },
}

impl Distribution {
    const KEYS: [&str; 5] = ["of", "from", "to", "scale", "whole"];

    fn read(value: &Value) -> Option<Self> {
        let table = value.as_table()?;
        if table.keys().any(|key| !Self::KEYS.contains(&key.as_str())) {
            return None;
        }
        if let Some(of) = table.get("of") {
            let values = of.as_array().filter(|values| !values.is_empty() && table.len() == 1)?;
            return Some(Distribution::Of(values.clone()));
        }
        let number = |key| {
            let value = table.get(key)?;
            value.as_float().or(value.as_integer().map(|n| n as f64))
        };
        let (from, to) = (number("from")?, number("to")?);
        let log = match table.get("scale").map(Value::as_str) {
            None | Some(Some("linear")) => false,
            Some(Some("log")) => true,
            Some(_) => return None,
        };
        let whole = table.get("whole").map_or(Some(false), Value::as_bool)?;
        let ok = from < to && from.is_finite() && to.is_finite() && (!log || from > 0.0);
        ok.then_some(Distribution::Between { from, to, log, whole })
    }

    /// The value at a share of the probability.
    fn at(&self, share: f64) -> Value {
        match self {
            Distribution::Of(values) => values[(share * values.len() as f64) as usize % values.len()].clone(),
            Distribution::Between { from, to, log, whole } => {
                let value = match log {
                    true => (from.ln() + share * (to.ln() - from.ln())).exp(),
                    false => from + share * (to - from),
                };
                match whole {
                    true => Value::Integer(value.round() as i64),
                    // Six digits, which names and tables can show.
                    false => Value::Float(format!("{value:.5e}").parse().unwrap_or(value)),
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Spec> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("methods.toml");
        std::fs::write(&path, text).unwrap();
        Spec::read(&path)
    }

    fn points(text: &str) -> Vec<String> {
        let points = read(text).unwrap().points;
        let shown = |(key, value): &(String, Value)| format!("{key}={value}");
        points
            .iter()
            .map(|point| point.iter().map(shown).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn grids_lists_and_samples_add_up() {
        let text = "
            [grid]
            method.name = ['set', 'rigl']
            sparsity.target = [0.9, 0.98]
            [[list]]
            'method.name' = 'dense'
            sparsity.layers.layer2 = 0.5";
        assert_eq!(
            points(text),
            [
                "method.name=\"set\" sparsity.target=0.9",
                "method.name=\"set\" sparsity.target=0.98",
                "method.name=\"rigl\" sparsity.target=0.9",
                "method.name=\"rigl\" sparsity.target=0.98",
                "method.name=\"dense\" sparsity.layers.layer2=0.5",
            ]
        );
        assert_eq!(points(""), [""]);
    }

    #[test]
    fn samples_are_of_their_seed_and_range() {
        let text = |seed: u64| {
            format!(
                "[random]\nsamples = 50\nseed = {seed}\nlearning_rate.base = {{ from = 0.01, to = 1.0, scale = 'log' }}\n\
                 train.batch_size = {{ of = [50, 100] }}\noptimizer.momentum = {{ from = 0, to = 3, whole = true }}"
            )
        };
        assert_eq!(points(&text(1)), points(&text(1)));
        assert_ne!(points(&text(1)), points(&text(2)));
        let spec = read(&text(1)).unwrap();
        let rates: Vec<f64> = spec.points.iter().map(|point| point[0].1.as_float().unwrap()).collect();
        assert!(rates.iter().all(|rate| (0.01..=1.0).contains(rate)));
        let small = rates.iter().filter(|&&rate| rate < 0.1).count();
        assert!((15..35).contains(&small), "{small}");
        assert!(spec.points.iter().all(|point| point[1].1.is_integer()));
    }

    #[test]
    fn wrong_files_are_refused_with_the_key() {
        for (text, expected) in [
            ("gird = 1", "did you mean 'grid'"),
            ("jobs = 0", "jobs is 0, expected a whole number"),
            ("seeds = '4..0'", "seeds is \"4..0\""),
            (
                "[grid]\nmethod.name = 'set'",
                "grid.method.name is \"set\", expected an array",
            ),
            (
                "[random]\nsamples = 2\ntrain.seed = { from = 2 }",
                "random.train.seed is",
            ),
            ("[random]\ntrain.seed = { of = [1] }", "random.samples is"),
            (
                "[grid]\na = [1,2,3,4,5,6,7,8,9,10,11]\nb = [1,2,3,4,5,6,7,8,9,10]\nc = [1,2,3,4,5,6,7,8,9,10]\nd = [1,2,3,4,5,6,7,8,9,10]",
                "11000 jobs",
            ),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
