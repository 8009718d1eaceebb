//! Sparsities that STR learned for ResNet-50 (reference 1.3).

use super::distribution::Layer;
use super::error::Error;

const TABLE: &str = include_str!("str_resnet50.csv");

/// Sparsities of the whole network in the table, computed as in the original: the percentage as a double, over 100. The
/// result is not always the double nearest to the share: 98.05 % gives 0.9804999999999999.
fn levels() -> impl Iterator<Item = f64> {
    let header = TABLE.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
    header.split(',').skip(1).filter_map(share)
}

/// A percentage as a share.
fn share(percent: &str) -> Option<f64> {
    Some(percent.parse::<f64>().ok()? / 100.0)
}

/// The share of zeros of each layer at `sparsity`, which must equal one of the levels.
///
/// # Errors
/// [`Error::NotALevel`] for another sparsity; [`Error::NotInTable`] for a layer that ResNet-50 does not have.
pub(super) fn shares(layers: &[Layer], sparsity: f64) -> Result<Vec<f64>, Error> {
    let Some(column) = levels().position(|level| level == sparsity) else {
        let levels: Vec<String> = levels().map(|level| level.to_string()).collect();
        return Err(Error::NotALevel {
            found: sparsity,
            expected: levels.join(", "),
        });
    };
    let share_of = |layer: &Layer| {
        let mut rows = TABLE.lines().map(|line| line.split(','));
        let mut row = rows.find_map(|mut row| (row.next() == Some(&layer.name)).then_some(row));
        let found = row.as_mut().and_then(|row| row.nth(column)).and_then(share);
        found.ok_or_else(|| Error::NotInTable {
            name: layer.name.clone(),
        })
    };
    layers.iter().map(share_of).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_exact() {
        let layer = |name: &str| [Layer::new(name, [7, 7, 3, 64])];
        let first = layer("resnet_model/initial_conv");
        assert_eq!(levels().count(), 16);
        assert_eq!(shares(&first, 0.7955).unwrap(), [51.46 / 100.0]);
        assert_eq!(shares(&first, 98.05 / 100.0).unwrap(), [73.47 / 100.0]);
        for (sparsity, near) in [(0.9805, "0.9804999999999999"), (0.8, "0.7955")] {
            let message = shares(&first, sparsity).unwrap_err().to_string();
            assert!(message.contains(near), "{message}");
        }
        let message = shares(&layer("layer1"), 0.7955).unwrap_err().to_string();
        assert!(message.contains("`layer1`"), "{message}");
    }

    #[test]
    fn levels_match_the_sparsity_of_the_network() {
        let network = models::find("resnet50", true).unwrap();
        let masked = models::Options {
            mask_first: Some(true),
            ..models::Options::new(network.name(), true)
        };
        let layers = masked.build().unwrap().layers();
        let layers: Vec<_> = layers.into_iter().map(|l| Layer::new(l.name, l.dims)).collect();
        let weights = |layer: &Layer| layer.dims.iter().product::<usize>() as f64;
        let all: f64 = layers.iter().map(weights).sum();
        for level in levels() {
            let shares = shares(&layers, level).unwrap();
            let zeros: f64 = layers.iter().zip(shares).map(|(layer, s)| weights(layer) * s).sum();
            assert!((zeros / all - level).abs() < 1e-3, "{level}: {}", zeros / all);
        }
    }
}
