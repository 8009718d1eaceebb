//! Folds batch normalisation into the preceding kernels, for inference.

use super::dead_units::Arrays;
use crate::checkpoint::sparse::FOLDED;
use hlo::Literal;
use models::Layer;
use models::layers::BatchNorm;

/// Folds the normalisation of each layer that has a [`norm`](Layer::norm) into its kernel: `w · gamma / sqrt(variance +
/// epsilon)` per output channel, computed in f64. What remains of the normalisation adds `beta - mean · gamma / sqrt(variance +
/// epsilon)`, stored as `beta`; the other three arrays become those of [`FOLDED`], so the network stays one of its family.
/// Folding twice changes nothing. Returns the scopes of the normalisations.
///
/// # Errors
/// A missing array, or a channel without a finite scale, shift or weight.
pub fn fold(layers: &[Layer], arrays: &mut Arrays) -> Result<Vec<String>, String> {
    let mut folded = vec![];
    for (layer, norm) in layers.iter().filter_map(|layer| Some((layer, layer.norm.as_ref()?))) {
        let kernel = f32s(arrays, &layer.kernel)?;
        let parts =
            ["gamma", "beta", "moving_mean", "moving_variance"].map(|part| f32s(arrays, &format!("{norm}/{part}")));
        let [gamma, beta, mean, variance] = parts;
        let affine =
            Affine::new(&gamma?, &beta?, &mean?, &variance?).map_err(|reason| format!("'{norm}': {reason}"))?;
        let channels = affine.scale.len();
        let kernel = affine
            .apply(&kernel)
            .map_err(|reason| format!("'{}': {reason}", layer.kernel))?;
        arrays.insert(layer.kernel.clone(), Literal::new(&layer.dims, &kernel));
        arrays.insert(format!("{norm}/beta"), Literal::new(&[channels], &affine.shift));
        let constant = |(part, value)| {
            (
                format!("{norm}/{part}"),
                Literal::new(&[channels], &vec![value; channels]),
            )
        };
        arrays.extend(FOLDED.map(constant));
        folded.push(norm.clone());
    }
    Ok(folded)
}

fn f32s(arrays: &Arrays, name: &str) -> Result<Vec<f32>, String> {
    let array = arrays.get(name).and_then(Literal::to_vec);
    array.ok_or_else(|| format!("'{name}' is missing or not f32"))
}

/// The effect of a normalisation on each channel.
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f32>,
}

impl Affine {
    fn new(gamma: &[f32], beta: &[f32], mean: &[f32], variance: &[f32]) -> Result<Self, String> {
        // The sum is f32 as in the network; for a folded normalisation it is 1.
        let epsilon = BatchNorm::EPSILON as f32;
        let scale = |(&gamma, &variance): (&f32, &f32)| f64::from(gamma) / f64::from(variance + epsilon).sqrt();
        let scale: Vec<f64> = gamma.iter().zip(variance).map(scale).collect();
        let shift = |((&beta, &mean), &scale): ((&f32, &f32), &f64)| (f64::from(beta) - f64::from(mean) * scale) as f32;
        let shift: Vec<f32> = beta.iter().zip(mean).zip(&scale).map(shift).collect();
        for (channel, (scale, shift)) in scale.iter().zip(&shift).enumerate() {
            if !(scale.is_finite() && shift.is_finite()) {
                let found = format!("scale {scale} and shift {shift}");
                return Err(format!(
                    "channel {channel} has {found}, expected finite numbers to fold into a kernel"
                ));
            }
        }
        Ok(Affine { scale, shift })
    }

    /// Scales a kernel `[.., channels]`, or a depthwise kernel `[.., channels, 1]`.
    fn apply(&self, kernel: &[f32]) -> Result<Vec<f32>, String> {
        let scaled = kernel.iter().zip(self.scale.iter().cycle());
        let scaled = scaled.map(|(&w, &scale)| {
            let folded = (f64::from(w) * scale) as f32;
            match w.is_finite() && !folded.is_finite() {
                true => Err(format!("weight {w} times scale {scale} is beyond f32")),
                false => Ok(folded),
            }
        });
        scaled.collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn arrays(gamma: f32, variance: f32) -> Arrays {
        let f32s = |name: &str, dims: &[usize], values: &[f32]| (name.to_owned(), Literal::new(dims, values));
        [
            f32s("c/weights", &[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]),
            f32s("n/gamma", &[2], &[gamma, 0.5]),
            f32s("n/beta", &[2], &[1.0, -1.0]),
            f32s("n/moving_mean", &[2], &[3.0, 4.0]),
            f32s("n/moving_variance", &[2], &[variance, 0.25 - 1e-5]),
        ]
        .into()
    }

    fn layers() -> Vec<Layer> {
        let mut layer = models::find("resnet18", false).unwrap().layers().swap_remove(0);
        (layer.kernel, layer.norm, layer.dims) = ("c/weights".into(), Some("n".into()), vec![1, 1, 2, 2]);
        vec![layer]
    }

    #[test]
    fn kernels_take_the_scale_and_beta_the_shift() {
        let mut arrays = arrays(2.0, 4.0 - 1e-5);
        assert_eq!(fold(&layers(), &mut arrays).unwrap(), ["n"]);
        let values = |name: &str| arrays[name].to_vec::<f32>().unwrap();
        assert_eq!(values("c/weights"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(values("n/beta"), [-2.0, -5.0]);
        assert_eq!(
            (values("n/gamma"), values("n/moving_mean")),
            (vec![1.0; 2], vec![0.0; 2])
        );
        for variance in values("n/moving_variance") {
            assert_eq!(variance + BatchNorm::EPSILON as f32, 1.0);
        }
        let once = arrays.clone();
        fold(&layers(), &mut arrays).unwrap();
        assert!(arrays == once);
    }

    #[test]
    fn rejects_scales_that_are_not_finite() {
        for (gamma, variance, expected) in [
            (1.0, -1e-5, "'n': channel 0 has scale inf"),
            (1.0, -1.0, "'n': channel 0 has scale NaN"),
            (f32::NAN, 1.0, "'n': channel 0 has scale NaN"),
            (3e38, 1e-5, "'n': channel 0 has scale 6"),
            (2e38, 1.0, "'n': channel 0 has scale 1"),
        ] {
            let error = fold(&layers(), &mut arrays(gamma, variance)).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        let mut huge = arrays(1e30, 1.0);
        huge.insert("n/moving_mean".into(), Literal::new(&[2], &[0f32; 2]));
        huge.insert("c/weights".into(), Literal::new(&[1, 1, 2, 2], &[1e30f32; 4]));
        let error = fold(&layers(), &mut huge).unwrap_err();
        assert!(error.starts_with("'c/weights': weight 1"), "{error}");
        let mut missing = arrays(1.0, 1.0);
        missing.remove("n/beta");
        assert_eq!(
            fold(&layers(), &mut missing).unwrap_err(),
            "'n/beta' is missing or not f32"
        );
    }
}
