//! Which of the published recipes a run starts from.

use models::Family;
pub use models::presets::{EXPORTED, PRESETS};

/// The preset that runs by default.
pub const DEFAULT_PRESET: &str = "mnist-rigl";

/// The recipe for a network of this name (by default, that of the default preset) and a method: the preset named after both, or
/// else the network's preset for RigL.
pub fn preset_of(model: Option<&str>, method: Option<&str>) -> &'static str {
    if model == Some(crate::exported::NAME) {
        let find = |method: &str| {
            EXPORTED
                .iter()
                .find(|(name, _)| name.strip_prefix("exported-") == Some(method))
        };
        return method.and_then(find).map_or(EXPORTED[0].0, |(name, _)| name);
    }
    let recipe = model.and_then(|name| Some((Family::from_name(name)?.recipe.preset)(name)));
    let recipe = recipe.unwrap_or("mnist");
    let find = |method: &str| {
        let mut names = PRESETS.iter().map(|(name, _)| *name);
        names.find(|name| name.strip_prefix(recipe).and_then(|rest| rest.strip_prefix('-')) == Some(method))
    };
    method.and_then(find).or(find("rigl")).unwrap_or(DEFAULT_PRESET)
}
