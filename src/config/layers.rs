//! Stacks preset, file and flags, and records the origin of each value.

use std::{collections::BTreeMap, path::Path};

use toml::{Table, Value};

use super::presets::EXPORTED;
use super::{Error, Network, PRESETS, Plan, Run};
use crate::files;

/// Bound on a configuration file: 1 MiB. The longest preset has 3 kB.
pub(crate) const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A run being put together. Every layer is checked for unknown keys and wrong types as it is laid, so the one at fault is
/// the one named.
#[derive(Clone, Debug)]
pub struct Layers {
    table: Table,
    /// Dotted key to the flag, file or preset that last set it.
    pub(super) origins: BTreeMap<String, String>,
    /// Name of the preset.
    pub(super) preset: String,
    /// Description of what [`Layers::fitted`] did.
    pub(super) fit: Option<String>,
    /// Keys that the command line set, as paths, with the flag and its value.
    given: BTreeMap<Vec<String>, String>,
}

impl Layers {
    /// The bottom layer: a preset by name.
    ///
    /// # Errors
    /// [`Error::Sparse`] with the nearest names when there is no such preset.
    pub fn preset(name: &str) -> Result<Self, Error> {
        let Some((_, texts)) = PRESETS.iter().chain(EXPORTED).find(|(known, _)| *known == name) else {
            let source = sparse::Error::unknown("preset", name, PRESETS.iter().map(|(known, _)| *known));
            return Err(Error::Sparse {
                origin: "PRESET".into(),
                source,
            });
        };
        let origin = format!("preset {name}");
        let mut layers = Layers {
            table: Table::new(),
            origins: BTreeMap::new(),
            preset: name.to_owned(),
            fit: None,
            given: BTreeMap::new(),
        };
        for text in *texts {
            layers.lay(&origin, text)?;
        }
        layers.checked(&origin)
    }

    /// A TOML file over what is there. Sections merge, their values are replaced whole.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or has an unknown key or a value of the wrong type.
    pub fn file(mut self, path: &Path) -> Result<Self, Error> {
        let text = files::read_text(path, MAX_CONFIG_BYTES).map_err(|source| Error::Read {
            path: path.into(),
            source,
        })?;
        let origin = path.display().to_string();
        self.lay(&origin, &text)?;
        self.checked(&origin)
    }

    /// Replaces the network by the table `model`, without options and layers from below, which belong to another network.
    ///
    /// # Errors
    /// As [`Layers::set`].
    pub fn with_model(self, origin: &str, model: Table) -> Result<Self, Error> {
        self.set(origin, &["model"], model)?
            .set(origin, &["sparsity", "layers"], Table::new())
    }

    /// One value over what is there; `key` is the path from the section down, `origin` the flag.
    ///
    /// # Errors
    /// An unknown key or a value of the wrong type.
    pub fn set(mut self, origin: &str, key: &[&str], value: impl Into<Value>) -> Result<Self, Error> {
        self.put(origin, key, value.into());
        self.checked(origin)
    }

    /// [`Layers::set`] for a value that the command line gives, `given` being the flag with its value. A value, or a part of
    /// it, is given once.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the command line gave it before; otherwise as [`Layers::set`].
    pub fn give(mut self, origin: &str, given: &str, key: &[&str], value: impl Into<Value>) -> Result<Self, Error> {
        let path: Vec<String> = key.iter().map(|&part| part.to_owned()).collect();
        let overlaps = |known: &&Vec<String>| known.starts_with(&path) || path.starts_with(known);
        if let Some((known, first)) = self.given.iter().find(|(known, _)| overlaps(known)) {
            let longer = if known.len() > path.len() { known } else { &path };
            return Err(Error::Conflict {
                key: longer.join("."),
                first: first.clone(),
                second: given.to_owned(),
            });
        }
        self.given.insert(path, given.to_owned());
        self.set(origin, key, value)
    }

    /// The run so far, its values not yet checked against each other.
    ///
    /// # Errors
    /// None for layers that were laid without one.
    pub fn run(&self) -> Result<Run, Error> {
        self.table.clone().try_into().map_err(|parser| Error::Toml {
            origin: "configuration".into(),
            parser,
        })
    }

    /// Plans the run.
    ///
    /// # Errors
    /// The first value that is out of range or contradicts another, with its origin.
    pub fn plan(&self) -> Result<Plan, Error> {
        let plan = Plan::new(self.run()?).map_err(|error| self.located(error))?;
        self.check_ends(&plan)?;
        Ok(Plan {
            fit: self.fit.clone(),
            ..plan
        })
    }

    /// [`Layers::plan`] for a network that is not one of this program.
    ///
    /// # Errors
    /// As [`Layers::plan`].
    pub fn plan_network(&self, network: Network) -> Result<Plan, Error> {
        let plan = Plan::for_network(self.run()?, network).map_err(|error| self.located(error))?;
        self.check_ends(&plan)?;
        Ok(plan)
    }

    /// [`Layers::plan`] for a list of maskable layers instead of the model's.
    ///
    /// # Errors
    /// As [`Layers::plan`].
    pub fn plan_for(&self, params: Vec<models::Param>) -> Result<Plan, Error> {
        Plan::for_params(self.run()?, params).map_err(|error| self.located(error))
    }

    /// Refuses two sparsities of the first or last layer from the command line, one by its place and one by its name.
    ///
    /// # Errors
    /// [`Error::Conflict`].
    pub(crate) fn check_ends(&self, plan: &Plan) -> Result<(), Error> {
        let ends = [
            ("first_layer", plan.budgets.first()),
            ("last_layer", plan.budgets.last()),
        ];
        for (place, layer) in ends {
            let by_place = ["sparsity", place].map(str::to_owned);
            let (Some(layer), Some(first)) = (layer, self.given.get(&by_place[..])) else {
                continue;
            };
            let by_name = ["sparsity", "layers", &layer.name].map(str::to_owned);
            if let Some((_, second)) = self.given.iter().find(|(known, _)| known.starts_with(&by_name)) {
                return Err(Error::Conflict {
                    key: format!("the sparsity of layer {}", layer.name),
                    first: first.clone(),
                    second: second.clone(),
                });
            }
        }
        Ok(())
    }

    fn lay(&mut self, origin: &str, text: &str) -> Result<(), Error> {
        let layer: Table = text.parse().map_err(|parser| Error::Toml {
            origin: origin.into(),
            parser,
        })?;
        for (section, value) in layer {
            match value {
                Value::Table(keys) => {
                    // The name of an empty section is checked, too.
                    self.table
                        .entry(section.as_str())
                        .or_insert_with(|| Table::new().into());
                    for (key, value) in keys {
                        self.put(origin, &[&section, &key], value);
                    }
                }
                value => self.put(origin, &[&section], value),
            }
        }
        Ok(())
    }

    fn put(&mut self, origin: &str, key: &[&str], value: Value) {
        let Some((last, sections)) = key.split_last() else {
            return;
        };
        let mut table = &mut self.table;
        for &section in sections {
            let entry = table.entry(section).or_insert_with(|| Table::new().into());
            if !entry.is_table() {
                *entry = Table::new().into();
            }
            let Value::Table(inner) = entry else { return };
            table = inner;
        }
        table.insert((*last).to_owned(), value);
        let key = key.join(".");
        let below = format!("{key}.");
        self.origins.retain(|known, _| !known.starts_with(&below));
        self.origins.insert(key, origin.to_owned());
    }

    fn checked(self, origin: &str) -> Result<Self, Error> {
        match self.run() {
            Err(Error::Toml { parser, .. }) => Err(Error::Toml {
                origin: origin.into(),
                parser,
            }),
            Err(error) => Err(error),
            Ok(_) => Ok(self),
        }
    }

    /// Replaces the key in the error's origin by the origin of that key.
    pub(super) fn located(&self, mut error: Error) -> Error {
        if let Error::Value { origin, .. } | Error::Sparse { origin, .. } = &mut error {
            let parts: Vec<&str> = origin.split('.').collect();
            let known = (1..=parts.len())
                .rev()
                .find_map(|n| self.origins.get(&parts[..n].join(".")));
            // A key below the one at fault: `--set sparsity.layers.layer1.scale=2`.
            let below = format!("{origin}.");
            let below = self.origins.iter().find(|(key, _)| key.starts_with(&below));
            let known = below.map(|(_, origin)| origin).or(known);
            if let Some(known) = known {
                *origin = known.clone();
            }
        }
        error
    }
}
