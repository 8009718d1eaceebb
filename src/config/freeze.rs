//! Parameters that a run does not train.

use models::Param;
use sparse::{InitialMask, KeepCount, Method};

use super::check::value;
use super::{Error, Plan};
use crate::pattern::matches;

impl Plan {
    /// Whether a parameter or statistic keeps the value that it begins with.
    pub fn is_frozen(&self, name: &str) -> bool {
        self.run.train.freeze.iter().any(|pattern| matches(pattern, name))
    }

    /// Number of parameters that are not trained.
    pub fn frozen(&self) -> usize {
        let frozen = self.params.iter().filter(|param| self.is_frozen(&param.name));
        frozen.map(Param::elements).sum()
    }

    /// Checks the patterns of a run.
    ///
    /// # Errors
    /// A pattern that matches nothing; patterns that match everything; or a method that would prune a frozen layer.
    pub(super) fn check_frozen(&self, method: &Method) -> Result<(), Error> {
        let statistics = self.statistics.iter().map(|statistic| &statistic.name);
        let names: Vec<&String> = self.params.iter().map(|param| &param.name).chain(statistics).collect();
        let patterns = &self.run.train.freeze;
        if let Some(unused) = patterns
            .iter()
            .find(|pattern| !names.iter().any(|name| matches(pattern, name)))
        {
            let first: Vec<&str> = names.iter().take(3).map(|name| name.as_str()).collect();
            let expected = format!("a pattern of names such as {}", first.join(", "));
            return Err(value("train.freeze", unused, expected));
        }
        if self.params.iter().all(|param| self.is_frozen(&param.name)) && !self.params.is_empty() {
            return Err(value(
                "train.freeze",
                patterns.join(", "),
                "patterns that leave something to train",
            ));
        }
        let prunes = method.keep == KeepCount::TotalBudget || method.initial_mask == InitialMask::Ones;
        let pruned = |param: &&Param| self.budget(param).is_some_and(|budget| budget.zeros > 0);
        match self
            .params
            .iter()
            .filter(pruned)
            .find(|param| self.is_frozen(&param.name))
        {
            Some(param) if prunes && method.masked => {
                let expected = format!(
                    "no layer that method {} prunes, such as {}: give it sparsity 0, or leave it to training",
                    method.name, param.name
                );
                Err(value("train.freeze", patterns.join(", "), expected))
            }
            _ => Ok(()),
        }
    }
}
