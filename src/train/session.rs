//! Runs training from start to end: launches, metrics, evaluations, checkpoints.

use super::condensed::{self, condense, expand};
use super::error::{Error, Result};
use super::feed::{Feed, LaunchInputs};
use super::group::{same_run, same_start, stops};
use super::inference::{Scores, scalar};
use super::init;
use super::keeping::Keeping;
use super::launch::LAUNCH_OUTPUTS;
use super::profile::{Clock, Phase, Recorder};
use super::replicas::{self, AGREE};
use super::resume;
use super::state;
use super::step::{Row, Trainer, schedule};
use super::summary::Summary;
use crate::checkpoint::{Checkpoint, METRICS, Metadata, Mode, Origin, RunDir};
use crate::config::Plan;
use crate::data::sets::Examples;
use crate::device::Device;
use crate::distributed::Group;
use crate::engine::{self, Arg, Buffer, Program};
use crate::report::{metrics::Writer, progress::Progress};
use crate::signals::Stop;
use hlo::{Literal, Shape};
use models::Model;
use serde_json::{Value, json};
use sparse::{Counters, Tick};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A run in progress.
struct Session<'a> {
    plan: &'a Plan,
    started: Instant,
    dir: RunDir,
    device: Device,
    launch: Box<dyn Program>,
    /// Evaluates the test set.
    evaluator: Scorer,
    /// Evaluates the validation split, if there is one.
    validation: Option<Scorer>,
    /// Iterations from one evaluation to the next.
    eval_interval: u64,
    keeping: Keeping,
    origin: Origin,
    /// The last scores on the validation split.
    validated: Option<Scores>,
    specs: Vec<(String, Shape)>,
    /// Makes condensed weights whole, for evaluation.
    expansion: Option<Box<dyn Program>>,
    /// The state of each local replica.
    state: Vec<Vec<Buffer>>,
    /// The seed, and with several replicas the number of each.
    identity: Vec<Vec<Buffer>>,
    feed: Feed,
    counters: Counters,
    mask_updates: u64,
    /// `None` if another process writes.
    metrics: Option<Writer>,
    /// `None` if another process writes, or the run keeps no journal.
    topology: Option<crate::topology::Writer>,
    /// `None` if another process writes, or the run writes no events.
    events: Option<crate::report::events::Events>,
    /// Mask updates of the whole run.
    updates: usize,
    progress: Progress,
    train_time: Duration,
    clock: Clock,
    profile: Option<Recorder>,
    last_saved: Option<(u64, PathBuf)>,
}

/// The inputs of one launch, on the device of each replica, and the counters after it.
struct Launch {
    fed: Vec<LaunchInputs>,
    buffers: Vec<Vec<Buffer>>,
    ticks: Vec<Tick>,
    after: Counters,
}

/// Trains as planned, and profiles `profile` launches after the first. Checks `stop` between launches: after a signal to any
/// process of the `group` the run saves and ends. Only process 0 writes. The others return the same summary, except for times.
///
/// # Errors
/// [`Error`]. Earlier checkpoints stay valid.
pub fn train(plan: &Plan, mode: Mode, profile: Option<u64>, stop: &Stop, group: Option<Arc<Group>>) -> Result<Summary> {
    let session = Session::open(plan, mode, group.clone(), stop, None)?;
    session.train(profile, stop, group.as_deref())
}

/// [`train()`] on these training and test examples instead of the data set of the configuration.
///
/// # Errors
/// [`Error`].
pub fn train_on(plan: &Plan, examples: [Examples; 2], mode: Mode, stop: &Stop) -> Result<Summary> {
    Session::open(plan, mode, None, stop, Some(examples))?.train(None, stop, None)
}

/// [`train()`] that ends after `iteration` iterations of the run, as if interrupted there.
///
/// # Errors
/// [`Error`].
pub fn train_until(plan: &Plan, mode: Mode, iteration: u64, stop: &Stop) -> Result<Summary> {
    let mut session = Session::open(plan, mode, None, stop, None)?;
    session.keeping.until(iteration);
    session.train(None, stop, None)
}

impl<'a> Session<'a> {
    /// Opens the run on its data set, or on the training and test examples that are `given`.
    fn open(
        plan: &'a Plan,
        mode: Mode,
        group: Option<Arc<Group>>,
        stop: &Stop,
        given: Option<[Examples; 2]>,
    ) -> Result<Self> {
        let started = Instant::now();
        let model = plan.model();
        let dir = folder(plan, mode, group.as_deref())?;
        let found = resume::check(plan, &dir, mode)?;
        if mode == Mode::Resume && group.as_ref().is_none_or(|group| group.process() == 0) {
            crate::report::note!("{}", resume::describe(plan, &dir, found.as_ref()));
        }
        let (mut arrays, counters, last_saved) = start(plan, &state::specs(plan), found)?;
        let (sets, device) = load_beside_device(plan, group, given)?;
        if let Some(group) = &device.group {
            same_start(group, &arrays, counters.iteration, [&sets.train, &sets.test])?;
        }
        let (examples, eval_interval) = (sets.train.len(), eval_interval(plan, sets.train.len()));
        let digests = sets.digests();
        // Reads pictures while the compiler works.
        let feed = Feed::new(plan, &device, sets.train, counters.iteration)?;
        let (launch, program) = compile_launch(plan, model, &device, examples)?;
        let evaluator = evaluator_of(plan, model, &device, &sets.test)?;
        let validation = sets.validation.map(|set| evaluator_of(plan, model, &device, &set));
        let validation = validation.transpose()?;
        let programs = [("train", program), ("eval", evaluator.digest().to_owned())];
        let origin = Origin {
            data: digests,
            programs: programs.map(|(name, digest)| (name.to_owned(), digest)).into(),
            device: device.identity()?,
        };
        let mut keeping = Keeping::new(plan);
        if mode == Mode::Resume {
            let records = dir.records(counters.iteration)?;
            records.iter().for_each(|record| keeping.see(record));
        }
        condense(plan, &mut arrays)?;
        let specs = condensed::specs(plan);
        let expansion = condensed::expansion(plan)?;
        let expansion = expansion.map(|program| device.replicated(&program, &[])).transpose()?;
        let state = device.each(|_, at| {
            let upload = |(name, _): &(String, Shape)| device.upload(&arrays[name], at);
            specs.iter().map(upload).collect::<engine::Result<Vec<_>>>()
        })?;
        let identity = device.each(|replica, at| {
            let arrays = replicas::identity(plan, replica);
            let uploaded = arrays.iter().map(|array| device.upload(array, at));
            uploaded.collect::<engine::Result<Vec<_>>>()
        })?;
        let progress = Progress::new(counters.iteration, keeping.last_iteration(plan));
        stop.heed("stopping: saving the run (Ctrl-C again ends it without saving)");
        // Overwrite an old run only now, when everything but training itself has succeeded.
        let (metrics, progress) = match device.writes() {
            true => (Some(begin(plan, &dir, mode, counters.iteration)?), progress),
            false => (None, progress.silent()),
        };
        let mut session = Session {
            started,
            feed,
            identity,
            mask_updates: plan.update_steps_within(counters.iteration).count() as u64,
            progress,
            train_time: Duration::ZERO,
            clock: Clock::start(),
            profile: None,
            plan,
            dir,
            device,
            launch,
            evaluator,
            validation,
            eval_interval,
            keeping,
            origin,
            validated: None,
            specs,
            expansion,
            state,
            counters,
            metrics,
            topology: None,
            events: None,
            updates: plan.update_steps().count(),
            last_saved,
        };
        session.open_topology(mode)?;
        session.open_events(mode)?;
        Ok(session)
    }

    /// Trains to the end of the run, or until a stop is asked for.
    fn train(mut self, profile: Option<u64>, stop: &Stop, group: Option<&Group>) -> Result<Summary> {
        let start = self.counters.iteration;
        let profile = profile.filter(|_| self.device.writes());
        let recorder = profile.map(|launches| Recorder::create(&self.dir, launches, start, &self.device));
        self.profile = recorder.transpose()?;
        let startup = self.started.elapsed();
        let mut scores = None;
        let mut next = self.first_launch()?;
        while let Some(launch) = next {
            scores = None;
            next = self.run(launch).map_err(|error| self.lost(error))?;
            let iteration = self.counters.iteration;
            let then = next.as_ref().map(|launch| launch.after.iteration);
            let asked = stop.signal().is_some() || self.stops_early();
            let mut ends = stops(group, asked, iteration, then)? || next.is_none();
            if ends && stop.signal().is_some() {
                // Before an evaluation: a machine that is taken away leaves half a minute.
                self.save()?;
            }
            if ends || iteration.is_multiple_of(self.eval_interval) {
                scores = self.evaluate().map_err(|error| self.unscored(error))?;
                // The other processes of a group learn of it with the next launch.
                ends |= group.is_none() && self.stops_early();
            }
            if ends && scores.is_none() {
                scores = Some(self.test().map_err(|error| self.unscored(error))?);
            }
            if ends && self.keeping.is_best(iteration) {
                // Marks a checkpoint from before the evaluation as the best.
                self.last_saved = None;
            }
            if ends
                || iteration.is_multiple_of(self.plan.run.train.checkpoint_interval)
                || self.keeping.is_best(iteration)
            {
                self.save()?;
            }
            self.end_launch()?;
            if ends {
                break;
            }
        }
        self.end_events()?;
        self.progress.finish();
        self.profile.as_mut().map_or(Ok(()), Recorder::finish)?;
        let scores = match scores {
            Some(scores) => scores,
            None => self.score(&self.evaluator)?, // resumed at its end, where the metrics have an evaluation already
        };
        let summary = self.summary(scores, start, startup)?;
        if self.device.writes() {
            self.certify(&summary)?;
        }
        Ok(summary)
    }

    /// The first launch of this session; `None` if the run has ended before.
    fn first_launch(&mut self) -> Result<Option<Launch>> {
        match self.device.group.is_none() && self.stops_early() {
            true => Ok(None),
            false => self.prepare(),
        }
    }

    /// Whether this process decides to stop the run before its last iteration.
    fn stops_early(&self) -> bool {
        self.device.writes() && self.keeping.reason(self.counters.iteration).is_some()
    }

    /// Prepares the next launch, up to the next evaluation, checkpoint or the end of the run. `None` at the end.
    fn prepare(&mut self) -> Result<Option<Launch>> {
        let train = &self.plan.run.train;
        let at = self.counters.iteration;
        let to_next = |interval: u64| interval - at % interval;
        let count = [
            self.plan.launch_length(),
            self.keeping.last_iteration(self.plan).saturating_sub(at),
            to_next(self.eval_interval),
            to_next(train.checkpoint_interval),
        ]
        .into_iter()
        .min()
        .unwrap_or(0) as usize;
        if count == 0 {
            return Ok(None);
        }
        let mut after = self.counters;
        let plan = self.plan;
        let count = topology::launch_length(plan, after, count);
        let (ticks, rows): (Vec<Tick>, Vec<Row>) = schedule(plan, &mut after, count).into_iter().unzip();
        let fed = self.feed.next(&self.device, at, count, &mut self.clock)?;
        self.clock.enter(Phase::Host);
        // Arrays have the length of a full launch; the program ignores entries past `count`.
        let k = plan.launch_length() as usize;
        let columns = Row::columns(plan);
        let mut schedule: Vec<f32> = rows.iter().flat_map(Row::values).collect();
        schedule.resize(k * columns, 0.0);
        let mut inputs = vec![Literal::new(&[k, columns], &schedule), Literal::scalar(count as i32)];
        if plan.draws() {
            inputs.push(Literal::scalar(at as i64));
        }
        self.clock.enter(Phase::Transfer);
        let buffers = self.device.each(|_, at| {
            let upload = |l| self.device.upload(l, at);
            inputs.iter().map(upload).collect::<engine::Result<Vec<_>>>()
        })?;
        self.clock.enter(Phase::Host);
        Ok(Some(Launch {
            fed,
            buffers,
            ticks,
            after,
        }))
    }

    /// Names the newest checkpoint in an error of the device.
    fn lost(&self, error: Error) -> Error {
        match error {
            Error::Device(source) => Error::Lost {
                source: Box::new(source),
                iteration: self.counters.iteration,
                last_good: self.last_saved.as_ref().map(|(_, path)| path.clone()),
            },
            other => other,
        }
    }

    /// As [`Session::lost`], for an evaluation after the run is saved.
    fn unscored(&self, error: Error) -> Error {
        let iteration = self.counters.iteration;
        match (error, &self.last_saved) {
            (Error::Device(source), Some((at, path))) if *at == iteration => Error::Unscored {
                source: Box::new(source),
                iteration,
                saved: path.clone(),
            },
            (error, _) => self.lost(error),
        }
    }

    /// Runs a launch and, while the device works, prepares the next one.
    fn run(&mut self, launch: Launch) -> Result<Option<Launch>> {
        let started = Instant::now();
        let state = std::mem::take(&mut self.state).into_iter().map(|s| s.into_iter());
        let inputs = launch.fed.iter().zip(&launch.buffers).zip(&self.identity);
        let args = state.zip(inputs).map(|(state, ((fed, buffers), identity))| {
            let inputs = fed.iter().map(AsRef::as_ref).chain(buffers).chain(identity);
            state.map(Arg::Donate).chain(inputs.map(Arg::Keep)).collect()
        });
        self.clock.enter(Phase::Launch);
        let mut outputs = self.launch.execute_replicated(args.collect())?;
        self.clock.enter(Phase::Host);
        let states = self.specs.len();
        let measured: Vec<_> = outputs
            .iter_mut()
            .map(|of| of.split_off(states.min(of.len())))
            .collect();
        // Outputs are the same on all replicas.
        let measured = measured.into_iter().next().unwrap_or_default();
        self.state = outputs;
        let before = std::mem::replace(&mut self.counters, launch.after);
        let next = self.prepare()?;
        self.clock.enter(Phase::Device);
        let read = |name: &'static str| {
            let position = LAUNCH_OUTPUTS.iter().position(|known| *known == name);
            scalar(&measured, position.ok_or(Error::Output(name))?, name)
        };
        let (last, sum) = (read("last_cross_entropy")?, read("cross_entropy_sum")?);
        let (correct, l2, done) = (read("correct")?, read("l2")?, read("done")? as u64);
        self.clock.enter(Phase::Host);
        self.train_time += started.elapsed();
        let tick = &launch.ticks[(done.max(1) - 1) as usize % launch.ticks.len()];
        if self.plan.replicas() > 1 && scalar(&measured, measured.len().saturating_sub(1), AGREE)? == 0.0 {
            return Err(Error::MasksDiffer {
                iteration: tick.iteration + 1,
                step: tick.step_before,
                replicas: self.plan.replicas(),
                last_good: self.last_saved.take().map(|(_, path)| path),
            });
        }
        if !last.is_finite() || !l2.is_finite() {
            return Err(Error::Diverged {
                iteration: tick.iteration + 1,
                step: tick.step_before,
                loss: if last.is_finite() { l2 as f32 } else { last as f32 },
                last_good: self.last_saved.take().map(|(_, path)| path),
            });
        }
        self.mask_updates += launch.ticks.iter().filter(|t| t.update_at.is_some()).count() as u64;
        let (loss, accuracy) = (
            sum / done as f64 + l2,
            correct / (done * self.plan.run.train.batch_size as u64) as f64,
        );
        let mut record = json!({
            "iteration": self.counters.iteration,
            "global_step": self.counters.global_step,
            "loss": loss,
            "learning_rate": self.plan.learning_rate.at(before.global_step),
            "mask_updates": self.mask_updates,
            "steps_per_s": done as f64 / started.elapsed().as_secs_f64(),
        });
        self.add_figures(&mut record, &measured, done)?;
        if self.plan.exported.is_none() {
            record["cross_entropy"] = (sum / done as f64).into();
            record["accuracy"] = accuracy.into();
        }
        self.record(&record)?;
        self.clock.enter(Phase::Recording);
        self.record_topology(&launch.ticks)?;
        self.clock.enter(Phase::Host);
        match &self.plan.exported {
            Some(_) => self.progress.advance(self.counters.iteration, |rate| {
                format!("{rate:.0} it/s, loss {loss:.4},")
            }),
            None => self
                .progress
                .update(self.counters.iteration, loss as f32, accuracy as f32),
        }
        Ok(next)
    }

    /// Records the times of a launch and of the evaluation and checkpoint after it.
    fn end_launch(&mut self) -> Result<()> {
        let spent = self.clock.lap();
        match &mut self.profile {
            Some(profile) => profile.record(self.counters.iteration, &spent),
            None => Ok(()),
        }
    }

    fn record(&mut self, record: &Value) -> Result<()> {
        self.keeping.see(record);
        self.clock.enter(Phase::Recording);
        self.add_events(record)?;
        self.clock.enter(Phase::Host);
        let Some(metrics) = &mut self.metrics else {
            return Ok(());
        };
        let path = self.dir.path().join(METRICS);
        metrics.write(record).map_err(|source| Error::Metrics { path, source })
    }

    /// An array of the state, from the first local replica.
    fn buffer(&self, name: &str) -> Option<&Buffer> {
        let i = self.specs.iter().position(|(n, _)| n == name)?;
        self.state.first()?.get(i)
    }

    /// Saves the state, unless this iteration is saved already or another process writes.
    fn save(&mut self) -> Result<()> {
        let iteration = self.counters.iteration;
        if self.last_saved.as_ref().is_some_and(|(at, _)| *at == iteration) {
            return Ok(());
        }
        if !self.device.writes() {
            self.last_saved = Some((iteration, self.dir.checkpoint(iteration)));
            return Ok(());
        }
        self.clock.enter(Phase::Saving);
        // A checkpoint never outlives the updates before it.
        self.topology.as_ref().map_or(Ok(()), crate::topology::Writer::sync)?;
        let pending: Vec<_> = self
            .state
            .first()
            .into_iter()
            .flatten()
            .map(Buffer::read)
            .collect::<engine::Result<_>>()?;
        let mut arrays = BTreeMap::new();
        for ((name, _), array) in self.specs.iter().zip(pending) {
            arrays.insert(name.clone(), array()?);
        }
        expand(self.plan, &mut arrays)?;
        // The folder and the allowances are not part of the state: equal runs save equal bytes.
        let mut run = self.plan.run.clone();
        run.output = crate::config::Output::default();
        run.train.allow_incomplete_schedule = None;
        let metadata = Metadata::new(&run.model.name, iteration, run.to_toml()?);
        let best = self.keeping.best().filter(|_| self.plan.run.keep.best.is_some());
        let path = self.dir.save(&arrays, &metadata, best.map(|best| best.iteration))?;
        self.last_saved = Some((iteration, path));
        self.clock.enter(Phase::Host);
        Ok(())
    }
}

/// Opens the run folder, read-only if another process writes. Checks that all processes have the same configuration.
fn folder(plan: &Plan, mode: Mode, group: Option<&Group>) -> Result<RunDir> {
    if let Some(group) = group {
        same_run(group, plan, mode)?;
        if group.process() > 0 {
            return Ok(RunDir::read_only(&plan.output_dir, mode)?);
        }
    }
    Ok(RunDir::create(&plan.output_dir, mode)?
        .keep(plan.run.train.keep_checkpoints)
        .keep_every(plan.run.keep.every))
}

/// Prepares the folder for this run, which starts after `iterations` iterations.
fn begin(plan: &Plan, dir: &RunDir, mode: Mode, iterations: u64) -> Result<Writer> {
    if mode == Mode::Overwrite {
        dir.clear()?;
    }
    dir.forget_end()?;
    // The configuration comes first: it marks the folder as a run's. A resumed run may be longer than before.
    dir.write_config(&plan.run.to_toml()?)?;
    if let Some(exported) = &plan.exported {
        dir.copy_model(&exported.path)?;
    }
    Ok(Writer::new(dir.metrics(iterations)?))
}

/// The training program and its digest.
fn compile_launch(
    plan: &Plan,
    model: &dyn Model,
    device: &Device,
    examples: usize,
) -> Result<(Box<dyn Program>, String)> {
    let (computation, aliases) = Trainer { plan, model }.launch(examples)?;
    let program = device.replicated(&computation, &aliases)?;
    Ok((program, super::programs::digest(&computation, &aliases)))
}

/// Arrays and counters to start from: those of the checkpoint, or new ones.
#[allow(clippy::type_complexity)]
fn start(
    plan: &Plan,
    specs: &[(String, Shape)],
    found: Option<Checkpoint>,
) -> Result<(BTreeMap<String, Literal>, Counters, Option<(u64, PathBuf)>)> {
    let Some(mut checkpoint) = found else {
        let (arrays, counters) = init::begin(plan, specs)?;
        return Ok((arrays, counters, None));
    };
    let iteration = checkpoint.metadata.as_ref().map_or(0, |m| m.iteration);
    let arrays = checkpoint.take(&plan.run.model.name, specs)?;
    let counters = state::counters(plan, &arrays, iteration);
    Ok((arrays, counters, Some((iteration, checkpoint.path))))
}

mod dry_run;
mod evaluation;
mod events;
mod figures;
mod sets;
mod topology;

pub use dry_run::{DryRun, Prepared, dry_run};
use evaluation::{Scorer, eval_interval, evaluator_of};
use sets::load_beside_device;

#[cfg(test)]
mod tests;
