//! The TensorBoard events of a session.

use super::Session;
use crate::checkpoint::Mode;
use crate::config::{FREE_KEYS, Plan, layer_name};
use crate::report::events::{Events, FILE, Hparam, HparamValue, Value};
use crate::topology::{Layer, Record, Writer, pictures};
use crate::train::error::{Error, Result};
use serde_json::Value as Json;
use sparse::Tick;

/// Most updates of a run with histograms, spread evenly: TensorBoard shows no more, and reading the weights takes time.
const HISTOGRAMS: usize = 50;
/// Most updates of a run with pictures.
const PICTURES: usize = 10;
/// Longest side of a mask's picture, in pixels.
const LONGEST: usize = 160;

/// The events to write at an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    histograms: bool,
    pictures: bool,
}

impl Due {
    /// At update `number` of `all`, counted from 1.
    fn at(number: u64, all: usize) -> Self {
        let due = |most: usize| (number - 1).is_multiple_of((all as u64).div_ceil(most as u64).max(1));
        Due {
            histograms: due(HISTOGRAMS),
            pictures: due(PICTURES),
        }
    }
}

impl Session<'_> {
    /// Begins or continues the event file, if the run has one and this process writes.
    pub(super) fn open_events(&mut self, mode: Mode) -> Result<()> {
        if !self.device.writes() || self.plan.run.output.tensorboard == Some(false) {
            return Ok(());
        }
        let path = self.dir.path().join(FILE);
        let resumes = mode == Mode::Resume && path.exists();
        let opened = match resumes {
            true => Events::resume(&path, self.counters.iteration),
            false => Events::create(&path).and_then(|mut events| {
                let name = self.dir.path().display().to_string();
                events.start_session(&name, hparams(self.plan))?;
                events.flush()?;
                Ok(events)
            }),
        };
        self.events = Some(opened.map_err(|source| Error::Metrics { path, source })?);
        Ok(())
    }

    /// Adds the numbers of a line of `metrics.jsonl`.
    pub(super) fn add_events(&mut self, record: &Json) -> Result<()> {
        let step = record["iteration"].as_u64().unwrap_or_default();
        let fields = record.as_object().into_iter().flatten();
        // Scores of a data set, as in {"iteration": 600, "eval": {"top1": 0.9}}.
        let mut scores = fields.filter(|(_, value)| value.get("examples").is_some()).peekable();
        let mut values: Vec<Value> = match scores.peek() {
            Some(_) => scores.flat_map(|(set, scores)| scalars(set, scores)).collect(),
            None => scalars("train", record).chain(norms(record)).collect(),
        };
        values.extend(
            record["explored"]
                .as_f64()
                .map(|share| Value::scalar("ever_active", share)),
        );
        self.write_events(step, values)
    }

    /// Adds what an update of the masks did, layer by layer.
    pub(super) fn add_update_events(&mut self, tick: &Tick, record: &Record, journal: &Writer) -> Result<()> {
        if self.events.is_none() {
            return Ok(());
        }
        let due = Due::at(self.mask_updates.max(1), self.updates);
        let mut values = vec![Value::scalar("drop_fraction", f64::from(tick.drop_fraction))];
        let maskable = self.plan.params.iter().filter(|param| param.mask.is_some());
        for (i, (param, mask)) in maskable.zip(journal.masks()).enumerate() {
            let name = layer_name(param).unwrap_or_default();
            let ones = mask.iter().filter(|&&one| one != 0).count();
            let all = mask.len().max(1) as f64;
            let mut add = |what: &str, value: f64| values.push(Value::scalar(format!("{what}/{name}"), value));
            add("sparsity", 1.0 - ones as f64 / all);
            add(
                "moved",
                record.layers.get(i).map_or(0, |changes| changes.moved()) as f64,
            );
            if let Some(ever) = journal.ever_active(i) {
                add("ever_active", ever as f64 / all);
            }
            if due.histograms {
                let weights = self.buffer(&param.name).ok_or(Error::Output("weights"))?.to_literal()?;
                let weights: Vec<f32> = weights.to_vec().unwrap_or_default();
                let connected: Vec<f32> = match self.plan.condensed.contains_key(&param.name) {
                    true => weights,
                    false => {
                        let active = weights.into_iter().zip(mask).filter(|&(_, &one)| one != 0);
                        active.map(|(weight, _)| weight).collect()
                    }
                };
                values.push(Value::histogram(format!("weights/{name}"), &connected));
            }
            if due.pictures {
                let layer = Layer {
                    name: name.into(),
                    shape: param.dims.clone(),
                };
                values.extend(picture(self.plan, &layer, mask));
            }
        }
        self.write_events(tick.iteration + 1, values)
    }

    /// Adds that the run reached its end. The step is beyond it, so that a longer run drops the event.
    pub(super) fn end_events(&mut self) -> Result<()> {
        let done = self.counters.iteration >= self.plan.iterations;
        if !done && self.keeping.reason(self.counters.iteration).is_none() {
            return Ok(());
        }
        let step = self.counters.iteration + 1;
        let path = self.dir.path().join(FILE);
        let Some(events) = &mut self.events else { return Ok(()) };
        let ended = events.end_session(step).and_then(|()| events.flush());
        ended.map_err(|source| Error::Metrics { path, source })
    }

    fn write_events(&mut self, step: u64, values: Vec<Value>) -> Result<()> {
        let path = self.dir.path().join(FILE);
        let Some(events) = &mut self.events else { return Ok(()) };
        let written = events.values(step, values).and_then(|()| events.flush());
        written.map_err(|source| Error::Metrics { path, source })
    }
}

/// The numbers of an object, without counters.
fn scalars<'a>(group: &'a str, record: &'a Json) -> impl Iterator<Item = Value> + 'a {
    const COUNTS: [&str; 4] = ["iteration", "global_step", "mask_updates", "examples"];
    let fields = record.as_object().into_iter().flatten();
    let counted = fields.filter(|(key, _)| !COUNTS.contains(&key.as_str()));
    counted.filter_map(move |(key, value)| Some(Value::scalar(format!("{group}/{key}"), value.as_f64()?)))
}

/// The norms of weights and gradients, by layer.
fn norms(record: &Json) -> impl Iterator<Item = Value> + '_ {
    ["gradient_norm", "weight_norm"].into_iter().flat_map(|norm| {
        let layers = record[norm].as_object().into_iter().flatten();
        layers.filter_map(move |(layer, value)| Some(Value::scalar(format!("{norm}/{layer}"), value.as_f64()?)))
    })
}

/// The mask of a layer as a picture: connections of each pixel where the inputs are an image, else the matrix.
fn picture(plan: &Plan, layer: &Layer, mask: &[u8]) -> Option<Value> {
    let inputs = pictures::Grid::inputs(&plan.input_dims, layer, mask);
    let (grid, scale) = match inputs {
        Some(grid) => (grid, 5),
        None => (pictures::Grid::mask(layer, mask, LONGEST), 1),
    };
    let largest = grid.largest();
    let picture = pictures::draw(&[vec![grid]], largest, scale);
    let size = [picture.width, picture.height];
    let png = picture.png(0.0).ok()?;
    Some(Value::image(format!("mask/{}", layer.name), size, png))
}

/// The keys that change results, with their values.
fn hparams(plan: &Plan) -> Vec<Hparam> {
    let telling = |key: &str| !FREE_KEYS.contains(&key) || key == "train.iterations";
    let values = plan.run.values().unwrap_or_default().into_iter();
    let kept = values.filter(|(key, _)| telling(key) && !key.starts_with("sparsity.layers"));
    kept.map(|(key, text)| {
        let value = match (text.parse::<f64>(), text.parse::<bool>()) {
            (Ok(number), _) => HparamValue::Number(number),
            (_, Ok(truth)) => HparamValue::Bool(truth),
            _ => HparamValue::Text(text.trim_matches('"').to_owned()),
        };
        (key, value)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_spread_over_the_run() {
        let count = |all: usize, of: fn(Due) -> bool| (1..=all as u64).filter(|&n| of(Due::at(n, all))).count();
        for all in [1, 7, 50, 51, 500, 1234] {
            let histograms = count(all, |due| due.histograms);
            assert!(
                histograms <= HISTOGRAMS && histograms >= all.min(HISTOGRAMS / 2),
                "{all}: {histograms}"
            );
            let pictures = count(all, |due| due.pictures);
            assert!((1..=PICTURES).contains(&pictures), "{all}: {pictures}");
        }
    }
}
