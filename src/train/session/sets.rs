//! The examples of a run.

use std::collections::BTreeMap;

use crate::checkpoint::ExamplesDigest;
use crate::config::Plan;
use crate::data::arrays::Arrays;
use crate::data::held_out::hold_out;
use crate::data::sets::{ExampleSpec, Examples};
use crate::data::{self, Split};
use crate::device::Device;
use crate::distributed::Group;
use crate::files::hex;
use crate::report::note;
use crate::threads;
use crate::train::error::{Error, Result};
use crate::train::exported_evaluation::inputs;
use crate::train::inference::check_set;
use sha2::Digest;
use std::path::Path;
use std::sync::Arc;

/// The examples of a run.
pub(super) struct Sets {
    pub train: Examples,
    /// Held out from the training examples, if the run asks for it.
    pub validation: Option<Examples>,
    pub test: Examples,
}

impl Sets {
    /// Identity of each part.
    pub(super) fn digests(&self) -> BTreeMap<String, ExamplesDigest> {
        let parts = [
            ("train", Some(&self.train)),
            ("validation", self.validation.as_ref()),
            ("test", Some(&self.test)),
        ];
        let digest = |(name, part): (&str, Option<&Examples>)| {
            let part = part?;
            let sha256 = hex(&part.hash().finalize());
            let examples = part.len();
            Some((name.to_owned(), ExamplesDigest { examples, sha256 }))
        };
        parts.into_iter().filter_map(digest).collect()
    }
}

/// Loads the examples of a run while its devices start, and checks that they fit: compiling takes minutes for large networks.
/// Examples that are `given` take the place of the data set.
pub(super) fn load_beside_device(
    plan: &Plan,
    group: Option<Arc<Group>>,
    given: Option<[Examples; 2]>,
) -> Result<(Sets, Device)> {
    let model = plan.model();
    let dims = model.input_dims();
    let spec = plan.run.example_spec(&dims, model.classes());
    let (data, device) = std::thread::scope(|scope| {
        let data = threads::spawn(scope, "data", || load(plan, &spec, given));
        let device = Device::of(plan, group);
        let data = data.map_err(crate::data::Error::Thread).map(|data| data.join());
        (data, device)
    });
    let sets = data?.map_err(|_| Error::Output("data set"))??;
    if plan.exported.is_none() {
        check_set(model, &sets.train)?;
    }
    Ok((sets, device?))
}

/// Loads both splits of the run's data set, fetched if absent, in the shape of the model's input, and holds out the validation
/// split.
fn load(plan: &Plan, spec: &ExampleSpec, given: Option<[Examples; 2]>) -> data::Result<Sets> {
    let data = &plan.run.data;
    let load = |split| match &plan.exported {
        None => data.set.open(&data.dir, split, spec),
        Some(exported) => {
            let arrays = Arrays::open(Path::new(&data.dir), split, &inputs(exported, |_| true))?;
            if let Some(note) = &arrays.note {
                note!("note: {note}");
            }
            Ok(Examples::Arrays(Arc::new(arrays)))
        }
    };
    let [train, test] = match given {
        Some(given) => given,
        None => [load(Split::Train)?, load(Split::Test)?],
    };
    if data.validation.is_none() {
        let validation = None;
        return Ok(Sets {
            train,
            validation,
            test,
        });
    }
    let seed = data.validation_seed.unwrap_or(plan.run.train.seed);
    let [train, held] = hold_out(&train, data.held_out(train.len()), seed)?;
    Ok(Sets {
        train,
        validation: Some(held),
        test,
    })
}
