//! Learning rate as a function of the gradient step.

/// Piecewise constant: `values[i]` holds from the step after `boundaries[i - 1]` to `boundaries[i]` (reference 4.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Piecewise {
    /// Gradient steps, strictly increasing.
    pub boundaries: Vec<i64>,
    /// One value more than there are boundaries.
    pub values: Vec<f32>,
}

impl Piecewise {
    /// The learning rate of the gradient step taken at counter `step` (0 for the first).
    pub fn at(&self, step: i64) -> f32 {
        self.values[self.boundaries.partition_point(|&boundary| boundary < step)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundary_itself_keeps_the_old_value() {
        let rate = Piecewise {
            boundaries: vec![30000, 60000],
            values: vec![0.1, 0.02, 0.004],
        };
        assert_eq!(
            [0, 30000, 30001, 60000, 60001].map(|step| rate.at(step)),
            [0.1, 0.1, 0.02, 0.02, 0.004]
        );
    }
}
