//! The graphs of a run that are compiled ahead of time.

use super::Error;
use crate::config::{CondensedLayers, Plan, SparseLayers};
use crate::train::eval::{Inference, evaluation};
use crate::train::exported::evaluation_of;
use crate::train::step::Trainer;
use hlo::{Alias, Computation};

/// A graph of a run.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Graph {
    /// One training iteration on one batch, without mask update
    #[default]
    Step,
    /// One mask update
    Update,
    /// Evaluation of one batch
    Eval,
    /// One launch: the device loop over training iterations and mask updates, with its data on the device
    Train,
}

impl Graph {
    /// Builds the graph for a plan, whose batch size is per device. Donates the state, if any.
    ///
    /// # Errors
    /// None for the models and methods of this crate.
    pub fn build(self, plan: &Plan) -> Result<(Computation, Vec<Alias>), Error> {
        // Only CPUs have host functions for sparse layers.
        let plan = &Plan {
            sparse: SparseLayers::new(),
            condensed: CondensedLayers::new(),
            between_updates: CondensedLayers::new(),
            ..plan.clone()
        };
        let model = plan.model();
        let trainer = Trainer { plan, model };
        Ok(match self {
            Graph::Step => trainer.step()?,
            Graph::Update => (trainer.update()?, vec![]),
            Graph::Eval => {
                let batch = plan.run.train.eval_batch_size;
                let exported = evaluation_of(plan)?;
                let own = || evaluation(Inference::new(plan, model), batch, batch);
                (exported.map_or_else(own, Ok)?, vec![])
            }
            Graph::Train => trainer.launch(resident_examples(plan))?,
        })
    }
}

/// Number of training examples on the device during a launch: the whole set, or the launch's batches if the set is streamed.
fn resident_examples(plan: &Plan) -> usize {
    let batch = plan.run.train.batch_size;
    match plan.streams() {
        true => plan.launch_length() as usize * batch,
        false => {
            let all = plan.run.data.set.examples([plan.run.generated_examples(); 2])[0];
            plan.run.training_examples(all)
        }
    }
}
