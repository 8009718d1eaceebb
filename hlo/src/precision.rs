//! Precision of matrix products and convolutions.

/// How exactly devices multiply the f32 operands of matrix products and convolutions. CPUs compute all of them in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// The device's fastest: bf16 on TPUs, TF32 on GPUs that have it.
    #[default]
    Default,
    /// More exact, at more cost: three products of bf16 parts on TPUs.
    High,
    /// Most exact: six products of bf16 parts on TPUs, f32 on GPUs.
    Highest,
}

impl MatmulPrecision {
    /// Every precision.
    pub const ALL: [MatmulPrecision; 3] = [
        MatmulPrecision::Default,
        MatmulPrecision::High,
        MatmulPrecision::Highest,
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            MatmulPrecision::Default => "default",
            MatmulPrecision::High => "high",
            MatmulPrecision::Highest => "highest",
        }
    }

    /// Whether it is the device's default.
    pub fn is_default(&self) -> bool {
        *self == MatmulPrecision::Default
    }

    /// XLA's `PrecisionConfig.Precision` number.
    pub(crate) fn number(self) -> i32 {
        match self {
            MatmulPrecision::Default => 0,
            MatmulPrecision::High => 1,
            MatmulPrecision::Highest => 2,
        }
    }
}
