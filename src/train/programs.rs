//! The identity of a run's compiled programs.

use super::error::Result;
use super::step::Trainer;
use crate::config::Plan;
use crate::files::hex;
use hlo::{Alias, Computation};
use sha2::{Digest, Sha256};

/// Digest of the training program of a plan, on all published examples of its data set: jobs with the same digest share a compiled
/// program.
///
/// # Errors
/// None for the models and methods of this crate.
pub fn program_digest(plan: &Plan) -> Result<String> {
    let model = plan.model();
    let all = plan.run.data.set.examples([plan.run.generated_examples(); 2])[0];
    let trainer = Trainer { plan, model };
    let (computation, aliases) = trainer.launch(plan.run.training_examples(all))?;
    Ok(digest(&computation, &aliases))
}

/// SHA-256 of a program, in hexadecimal.
pub fn digest(computation: &Computation, aliases: &[Alias]) -> String {
    hex(&Sha256::digest(computation.to_bytes(aliases)))
}
