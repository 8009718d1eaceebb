//! Iterations between mask updates, which compute with weights and slots of the connections alone ([`Plan::between_updates`]).
//!
//! The other weights get no gradient but that of the L2 term. Their steps are taken all at once before the next update
//! ([`decay_steps`]).

use super::condensed;
use super::launch::Carry;
use super::state::State;
use super::step::Trainer;
use crate::config::{CondensedLayers, Plan};
use crate::optimizer::decay_steps;
use hlo::{Graph, Shape};
use models::layers::sparse::{condense, expand};

impl Trainer<'_> {
    /// Runs `iterate`, which must not change masks, with connections alone in the state, and makes the state whole again. `specs`
    /// are those of the state.
    pub(super) fn on_connections<'g>(
        &self,
        g: &'g Graph,
        specs: &[(String, Shape)],
        mut carry: Carry<'g>,
        iterate: impl FnOnce(&Trainer<'_>, &[(String, Shape)], Carry<'g>) -> Carry<'g>,
    ) -> Carry<'g> {
        if self.plan.between_updates.is_empty() {
            return iterate(self, specs, carry);
        }
        let plan = Plan {
            condensed: self.plan.between_updates.clone(),
            between_updates: CondensedLayers::new(),
            ..self.plan.clone()
        };
        let layers: Vec<_> = condensed::layers(&plan).collect();
        let inner = condensed::specs(&plan);
        let before = State::new(specs, &carry.state);
        let mut state = before.clone();
        for layer in &layers {
            let mask = before.get(layer.mask);
            for name in &layer.arrays {
                state.set(name, condense(before.get(name), mask, layer.connections));
            }
        }
        let first = carry.done();
        carry.state = state.tensors(&inner);
        let trainer = Trainer {
            plan: &plan,
            model: self.model,
        };
        let mut carry = iterate(&trainer, &inner, carry);

        let schedule = self.input(&carry.inputs, "schedule");
        let rows = g.concatenate(&[first, carry.done()].map(|row| row.reshape(&[1])), 0);
        let mut state = State::new(&inner, &carry.state);
        for layer in &layers {
            let mask = before.get(layer.mask);
            let inactive = decay_steps(&plan.run.optimizer, &before.get_all(&layer.arrays), schedule, rows);
            for (name, inactive) in layer.arrays.iter().zip(inactive) {
                let active = expand(state.get(name), mask);
                state.set(name, mask.select(active, inactive));
            }
        }
        carry.state = state.tensors(specs);
        carry
    }
}
