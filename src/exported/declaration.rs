//! The arrays of an exported model as those of a network.

use super::{Array, Exported, NAME};
use crate::pattern::matches;
use hlo::Tensor;
use models::{Declaration, Init, Layer, Model, Net, Param, Statistic};

/// Settings that decide which leaves are masked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Masking<'a> {
    /// Patterns of masked leaves, instead of [`maskable`].
    pub masked: Option<&'a [String]>,
    /// Patterns of leaves without a mask.
    pub unmasked: Option<&'a [String]>,
}

/// Whether a leaf gets a mask by default: of rank 2 or more, and its path names no embedding, normalisation, position,
/// class token or bias.
pub fn maskable(leaf: &Array) -> bool {
    let lower = leaf.name.to_lowercase();
    let word = |word: &str| {
        let stem = word.trim_end_matches(|c: char| c.is_ascii_digit());
        word.contains("embed")
            || word.contains("norm")
            || ["ln", "bn", "pos", "position", "positional", "cls", "bias"].contains(&stem)
    };
    leaf.shape.len() >= 2 && !lower.split(['/', '.', '_', '-', '~']).any(word)
}

impl Masking<'_> {
    /// Whether a leaf gets a mask.
    fn masks(&self, leaf: &Array) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, &leaf.name));
        let masked = self.masked.map_or_else(|| maskable(leaf), any);
        masked && !self.unmasked.is_some_and(any)
    }

    /// The first pattern that no leaf matches.
    pub fn unmatched<'s>(&'s self, exported: &Exported) -> Option<&'s str> {
        let patterns = [self.masked, self.unmasked].into_iter().flatten().flatten();
        let none = |pattern: &&String| !exported.manifest.params.iter().any(|leaf| matches(pattern, &leaf.name));
        patterns.into_iter().find(none).map(String::as_str)
    }
}

impl Exported {
    /// The parameters and the state as a network declares them. `with_masks` is false for methods without masks; `ends`
    /// tells whether the first and last maskable leaf may have a mask.
    pub fn declaration(&self, masking: Masking, with_masks: bool, ends: [bool; 2]) -> Declaration {
        let leaves = &self.manifest.params;
        let chosen: Vec<usize> = (0..leaves.len()).filter(|&i| masking.masks(&leaves[i])).collect();
        let excluded = [chosen.first(), chosen.last()]
            .into_iter()
            .zip(ends)
            .filter(|(_, kept)| !kept);
        let excluded: Vec<usize> = excluded.filter_map(|(i, _)| i.copied()).collect();
        let param = |(i, leaf): (usize, &Array)| {
            let masked = chosen.contains(&i) && !excluded.contains(&i) && with_masks;
            Param {
                name: leaf.name.clone(),
                dims: leaf.shape.clone(),
                init: Init::Normal(self.deviation(&leaf.name)),
                mask: masked.then(|| format!("{}/mask", leaf.name)),
                decayed: leaf.shape.len() >= 2,
            }
        };
        let statistic = |leaf: &Array| Statistic {
            name: state_name(&leaf.name),
            dims: leaf.shape.clone(),
            init: Init::Zeros,
            dtype: leaf.typed().dtype,
        };
        let params: Vec<Param> = leaves.iter().enumerate().map(param).collect();
        Declaration {
            layers: self.layers(&params),
            params,
            statistics: self.manifest.state.iter().map(statistic).collect(),
            random: self.manifest.key.is_some(),
            ..Declaration::default()
        }
    }

    /// The parameters that are multiplied, as layers: from the dot products and convolutions of a forward pass.
    fn layers(&self, params: &[Param]) -> Vec<Layer> {
        let macs = self.predict.as_ref().unwrap_or(&self.evaluate).macs();
        let layer = |(i, param): (usize, &Param)| {
            let uses = self.manifest.batch as f64 * param.elements() as f64;
            let positions = macs.of_parameters.get(&i)? / uses.max(1.0);
            Some(Layer::at_positions(param, positions.round().max(1.0) as usize))
        };
        params.iter().enumerate().filter_map(layer).collect()
    }

    /// Standard deviation of the initial values of a parameter.
    fn deviation(&self, name: &str) -> f64 {
        let values = self.param(name).map(|array| array.to_f64_vec()).unwrap_or_default();
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt()
    }
}

/// Name of an array of the state in checkpoints.
pub fn state_name(leaf: &str) -> String {
    format!("state/{leaf}")
}

/// Stands for the network where only its name is needed: an exported model is called as a module.
#[derive(Clone, Copy, Debug)]
pub struct Stub;

impl Model for Stub {
    fn name(&self) -> &str {
        NAME
    }

    fn input_dims(&self) -> Vec<usize> {
        vec![]
    }

    fn classes(&self) -> usize {
        0
    }

    fn forward<'g>(&self, _: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        images
    }
}
