//! Windows and axis roles in the notation of HLO text.

use crate::proto::{ConvolutionDimensionNumbers, Window, WindowDimension};

/// `{size=3x3 stride=2x2 pad=0_1x0_1}`; fields with default values are left out.
pub fn window(window: &Window) -> String {
    type Part = fn(&WindowDimension) -> String;
    let part = |name: &str, part: Part| {
        let parts: Vec<String> = window.dimensions.iter().map(part).collect();
        format!("{name}={}", parts.join("x"))
    };
    let parts: [(&str, Part, &str); 6] = [
        ("size", |d| d.size.to_string(), ""),
        ("stride", |d| d.stride.to_string(), "1"),
        ("pad", |d| format!("{}_{}", d.padding_low, d.padding_high), "0_0"),
        ("lhs_dilate", |d| d.base_dilation.to_string(), "1"),
        ("rhs_dilate", |d| d.window_dilation.to_string(), "1"),
        ("rhs_reversal", |d| i64::from(d.window_reversal).to_string(), "0"),
    ];
    let unusual = parts
        .into_iter()
        .filter(|(_, value, default)| window.dimensions.iter().any(|d| value(d) != *default));
    let fields: Vec<String> = unusual.map(|(name, value, _)| part(name, value)).collect();
    format!("{{{}}}", fields.join(" "))
}

/// `b01f_01io->b01f`: batch, feature and spatial axes of input, kernel and output.
pub fn dim_labels(d: &ConvolutionDimensionNumbers) -> String {
    let input = labels(
        [('b', d.input_batch_dimension), ('f', d.input_feature_dimension)],
        &d.input_spatial_dimensions,
    );
    let kernel = labels(
        [
            ('i', d.kernel_input_feature_dimension),
            ('o', d.kernel_output_feature_dimension),
        ],
        &d.kernel_spatial_dimensions,
    );
    let output = labels(
        [('b', d.output_batch_dimension), ('f', d.output_feature_dimension)],
        &d.output_spatial_dimensions,
    );
    format!("{input}_{kernel}->{output}")
}

/// The label of each axis, in axis order.
fn labels(named: [(char, i64); 2], spatial: &[i64]) -> String {
    let named = named.into_iter().map(|(label, axis)| (axis, label.to_string()));
    let spatial = spatial.iter().enumerate().map(|(i, &axis)| (axis, i.to_string()));
    let mut labels: Vec<(i64, String)> = named.chain(spatial).collect();
    labels.sort();
    labels.into_iter().map(|(_, label)| label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_only_unusual_parts() {
        let slides = WindowDimension {
            size: 3,
            stride: 1,
            window_dilation: 1,
            base_dilation: 1,
            ..Default::default()
        };
        let text = |second| {
            window(&Window {
                dimensions: vec![slides.clone(), second],
            })
        };
        assert_eq!(text(slides.clone()), "{size=3x3}");
        let unusual = WindowDimension {
            stride: 2,
            padding_low: -1,
            base_dilation: 3,
            window_dilation: 4,
            window_reversal: true,
            ..slides
        };
        assert_eq!(
            text(unusual),
            "{size=3x3 stride=1x2 pad=0_0x-1_0 lhs_dilate=1x3 rhs_dilate=1x4 rhs_reversal=0x1}"
        );
    }

    #[test]
    fn labels_follow_the_order_of_axes() {
        assert_eq!(dim_labels(&crate::ConvDims::nhwc().to_proto()), "b01f_01io->b01f");
    }
}
