//! The state of a new run: random, or from a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use hlo::{Literal, Shape};
use models::Naming;

use super::error::{Error, Result};
use super::one_shot;
use super::state::{self, GLOBAL_STEP};
use crate::checkpoint::{self, Checkpoint, tf::original};
use crate::config::{Init, OneShot, Plan, Take};
use crate::report::note;
use sparse::{Counters, InitialMask, UpdateTiming};

/// Named arrays and the counters of their schedule.
pub type Start = (BTreeMap<String, Literal>, Counters);

/// Initialises the state of a new run; `specs` are its arrays.
///
/// # Errors
/// A checkpoint that cannot be read, lacks arrays, or does not fit the configuration.
pub fn begin(plan: &Plan, specs: &[(String, Shape)]) -> Result<Start> {
    let mut drawn = state::initial(plan)?;
    begin_averages(plan, &mut drawn, &BTreeSet::new());
    match &plan.run.init {
        None => Ok((drawn, Counters::start(plan.method.timing, &plan.schedule))),
        Some(init) => from_checkpoint(plan, specs, drawn, init),
    }
}

fn from_checkpoint(
    plan: &Plan,
    specs: &[(String, Shape)],
    mut arrays: BTreeMap<String, Literal>,
    init: &Init,
) -> Result<Start> {
    let file = checkpoint::load(&checkpoint::resolve(Path::new(&init.file))?)?;
    let mut file = checkpoint::torch::recognised(file)?;
    file.rename(specs, original::name_of);
    rename_forms(plan, &mut file);
    if init.take != Take::State {
        file.use_averages();
    }
    let mut wanted = wanted(plan, specs, &file, init.take);
    if init.take != Take::State {
        leave_out_classifier(plan, &file, &mut wanted);
    }
    if let Some(conversions) = file.conversions(&wanted) {
        note!("note: {conversions}");
    }
    // A network may have several names, so only names and dimensions of arrays are compared.
    let model = file
        .metadata
        .as_ref()
        .map_or(&plan.run.model.name, |m| &m.model)
        .clone();
    let found = file.take(&model, &wanted)?;
    let masks_taken = init.take != Take::Weights;
    if masks_taken && plan.method.initial_mask == InitialMask::Random {
        check_masks(plan, &file.path, &found)?;
    }
    let names = found.keys().cloned().collect();
    arrays.extend(found);
    begin_averages(plan, &mut arrays, &names);
    if let Some(how) = init.prune {
        for (layer, connections) in one_shot::prune(plan, &mut arrays, how) {
            crate::report::detail(|| format!("{layer}: the {connections} largest weights are kept"));
        }
    }
    if masks_taken || init.prune.is_some() {
        mark_explored(plan, &mut arrays, specs, &wanted);
    }
    let counters = match init.take {
        Take::State => counters(plan, &arrays, &file.path)?,
        Take::Weights | Take::Masks => Counters::start(plan.method.timing, &plan.schedule),
    };
    note!("{}", describe(&file.path, init, counters));
    Ok((arrays, counters))
}

/// Describes the start of the run, for the user.
fn describe(path: &Path, init: &Init, at: Counters) -> String {
    let path = path.display();
    match init.take {
        Take::Weights => match init.prune {
            None => format!("begins with the weights of {path}"),
            Some(OneShot::Layer) => format!("begins with the largest weights of each layer of {path}"),
            Some(OneShot::Global) => format!("begins with the largest weights of all layers of {path}"),
        },
        Take::Masks => format!("begins with the weights and masks of {path}"),
        Take::State => format!(
            "goes on from {path}: {} gradient steps done, which are {} iterations of this run",
            at.global_step, at.iteration
        ),
    }
}

/// Averages of weights begin with the weights, where they were not `found`.
fn begin_averages(plan: &Plan, arrays: &mut BTreeMap<String, Literal>, found: &BTreeSet<String>) {
    for param in &plan.params {
        let average = state::weight_average(plan, &param.name).filter(|average| !found.contains(average));
        if let (Some(average), Some(weights)) = (average, arrays.get(&param.name).cloned()) {
            arrays.insert(average, weights);
        }
    }
}

/// Renames kernels and biases that the checkpoint has under another form of their names: whether a layer has a mask
/// decides on the form.
fn rename_forms(plan: &Plan, file: &mut Checkpoint) {
    const FORMS: [Naming; 3] = [Naming::Masked, Naming::Doubled, Naming::Plain];
    for layer in &plan.layers {
        for names in [
            FORMS.map(|form| form.kernel(&layer.name)),
            FORMS.map(|form| form.bias(&layer.name)),
        ] {
            let ours = plan.params.iter().find(|param| names.contains(&param.name));
            let Some(ours) = ours.filter(|ours| !file.tensors.contains_key(&ours.name)) else {
                continue;
            };
            if let Some(array) = names.iter().find_map(|name| file.tensors.remove(name)) {
                file.tensors.insert(ours.name.clone(), array);
            }
        }
    }
}

/// Leaves the classifier to the initialiser where the checkpoint's has another number of classes, with a note.
fn leave_out_classifier(plan: &Plan, file: &Checkpoint, wanted: &mut Vec<(String, Shape)>) {
    let Some(last) = plan.layers.last() else { return };
    let (Some(found), Some((&classes, inputs))) = (file.tensors.get(&last.kernel), last.dims.split_last()) else {
        return;
    };
    let Some((&found, rest)) = found.dims().split_last() else {
        return;
    };
    if rest != inputs || found == classes {
        return;
    }
    let own = format!("{}/", last.name);
    wanted.retain(|(name, _)| !name.starts_with(&own));
    note!(
        "note: the classifier '{}' of {} has {found} classes, not {classes}: drawn anew",
        last.name,
        file.path.display()
    );
}

/// The arrays to read. A checkpoint may lack thresholds, which are written before they are read, and marks of weights that were
/// ever active.
fn wanted(plan: &Plan, specs: &[(String, Shape)], file: &Checkpoint, take: Take) -> Vec<(String, Shape)> {
    let trained = |name: &str| {
        plan.params.iter().any(|param| param.name == name) || plan.statistics.iter().any(|s| s.name == name)
    };
    let is_mask = |name: &str| plan.params.iter().any(|param| param.mask.as_deref() == Some(name));
    let dispensable = |name: &str| {
        let average = |param: &models::Param| state::weight_average(plan, &param.name);
        let extra = |param| {
            [
                state::threshold(plan, param),
                state::explored(plan, param),
                average(param),
            ]
        };
        let absent = !file.tensors.contains_key(name) && !file.unread.contains_key(name);
        absent && plan.params.iter().flat_map(extra).flatten().any(|extra| extra == name)
    };
    let taken = |name: &str| match take {
        Take::Weights => trained(name),
        Take::Masks => trained(name) || is_mask(name),
        Take::State => !dispensable(name),
    };
    specs.iter().filter(|(name, _)| taken(name)).cloned().collect()
}

/// Marks active weights as explored if the checkpoint has no marks.
fn mark_explored(
    plan: &Plan,
    arrays: &mut BTreeMap<String, Literal>,
    specs: &[(String, Shape)],
    wanted: &[(String, Shape)],
) {
    let taken = |name: &String| wanted.iter().any(|(wanted, _)| wanted == name);
    for param in &plan.params {
        let (Some(explored), Some(mask)) = (state::explored(plan, param), &param.mask) else {
            continue;
        };
        let known = specs.iter().any(|(name, _)| *name == explored);
        if let Some(mask) = arrays.get(mask).filter(|_| known && !taken(&explored)).cloned() {
            arrays.insert(explored, mask);
        }
    }
}

/// Rejects masks whose sparsity differs from the run's. Accepts both roundings of the number of zeros, because the original
/// changed its rounding.
fn check_masks(plan: &Plan, path: &Path, found: &BTreeMap<String, Literal>) -> Result<()> {
    let masks = plan
        .params
        .iter()
        .filter_map(|param| Some((plan.budget(param)?, param.mask.as_ref()?)));
    for (budget, name) in masks {
        // A classifier that is drawn anew has no mask there.
        let Some(mask) = found.get(name) else { continue };
        let ones = mask.to_bools().unwrap_or_default();
        let ones = ones.into_iter().filter(|&one| one).count();
        if ones.abs_diff(budget.nonzeros) > 1 {
            return Err(Error::Shape {
                what: format!("{}: mask '{name}'", path.display()),
                found: format!("{ones} connections"),
                expected: format!(
                    "{}, as the sparsity of this run gives it: give the run that of the checkpoint, or take weights alone",
                    budget.nonzeros
                ),
            });
        }
    }
    Ok(())
}

/// Counters of a checkpoint, with the iteration of this run's schedule that has the same ones.
fn counters(plan: &Plan, arrays: &BTreeMap<String, Literal>, path: &Path) -> Result<Counters> {
    let found = state::counters(plan, arrays, 0);
    let timing = plan.method.timing;
    let updates_counted = match timing {
        UpdateTiming::None | UpdateTiming::Every => false,
        UpdateTiming::Replaces | UpdateTiming::After | UpdateTiming::AfterInterval | UpdateTiming::Once => true,
    };
    let (mut at, mut first) = (Counters::start(timing, &plan.schedule), None);
    while at.global_step <= found.global_step && at.iteration < plan.iterations {
        if at.global_step == found.global_step {
            first = first.or(Some(at));
            if !updates_counted || at.last_update == found.last_update {
                return Ok(at);
            }
        }
        at.advance(timing, &plan.schedule);
    }
    let Some(first) = first else {
        let last = plan.gradient_steps();
        return Err(Error::Shape {
            what: format!("{}: '{GLOBAL_STEP}'", path.display()),
            found: format!("{} gradient steps", found.global_step),
            expected: format!("from 0 to fewer than the {last} of this run, which goes on from there"),
        });
    };
    note!(
        "note: {} updated its masks last at gradient step {}, where the schedule of this run has no update: the next is counted from there",
        path.display(),
        found.last_update
    );
    Ok(Counters {
        iteration: first.iteration,
        ..found
    })
}
