//! Conversion of stored elements to those that a model takes.

use half::{bf16, f16};
use hlo::DType;

/// Element type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stored {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F16,
    BF16,
    F32,
    F64,
}

/// Every type, with its name in safetensors and in NumPy's headers.
const ALL: [(Stored, &str, &str); 13] = [
    (Stored::Bool, "BOOL", "b1"),
    (Stored::I8, "I8", "i1"),
    (Stored::U8, "U8", "u1"),
    (Stored::I16, "I16", "i2"),
    (Stored::U16, "U16", "u2"),
    (Stored::I32, "I32", "i4"),
    (Stored::U32, "U32", "u4"),
    (Stored::I64, "I64", "i8"),
    (Stored::U64, "U64", "u8"),
    (Stored::F16, "F16", "f2"),
    (Stored::BF16, "BF16", "bf16"),
    (Stored::F32, "F32", "f4"),
    (Stored::F64, "F64", "f8"),
];

impl Stored {
    /// By its name in safetensors.
    pub(super) fn of_safetensors(name: &str) -> Option<Self> {
        ALL.iter()
            .find(|(_, known, _)| *known == name)
            .map(|(stored, _, _)| *stored)
    }

    /// By its type string in NumPy, such as `<f4`. Big-endian numbers are not known.
    pub(super) fn of_numpy(descr: &str) -> Option<Self> {
        let (order, code) = descr.split_at_checked(1)?;
        let stored = ALL
            .iter()
            .find(|(_, _, known)| *known == code)
            .map(|(stored, _, _)| *stored)?;
        let known = order == "<" || (["|", "=", ">"].contains(&order) && stored.bytes() == 1);
        known.then_some(stored)
    }

    /// Name for messages, as in safetensors.
    pub fn name(self) -> &'static str {
        ALL.iter()
            .find(|(stored, _, _)| *stored == self)
            .map_or("", |(_, name, _)| name)
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Stored::Bool | Stored::I8 | Stored::U8 => 1,
            Stored::I16 | Stored::U16 | Stored::F16 | Stored::BF16 => 2,
            Stored::I32 | Stored::U32 | Stored::F32 => 4,
            Stored::I64 | Stored::U64 | Stored::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Stored::F16 | Stored::BF16 | Stored::F32 | Stored::F64)
    }

    /// Whether the elements are integers.
    pub fn is_integer(self) -> bool {
        !self.is_float() && self != Stored::Bool
    }

    /// Whether values can become `to`: every type except floats to integers.
    pub(super) fn converts_to(self, to: DType) -> bool {
        to.is_float() || !self.is_float()
    }

    /// The same type in graphs.
    fn same(self) -> Option<DType> {
        Some(match self {
            Stored::Bool => DType::Pred,
            Stored::U8 => DType::U8,
            Stored::I32 => DType::S32,
            Stored::U32 => DType::U32,
            Stored::I64 => DType::S64,
            Stored::U64 => DType::U64,
            Stored::F16 => DType::F16,
            Stored::BF16 => DType::BF16,
            Stored::F32 => DType::F32,
            Stored::F64 => DType::F64,
            Stored::I8 | Stored::I16 | Stored::U16 => return None,
        })
    }

    /// Appends the elements of `from` as `to`; floats are rounded to the nearest.
    ///
    /// # Errors
    /// An integer that `to` cannot hold.
    pub(super) fn convert(self, from: &[u8], to: DType, out: &mut Vec<u8>) -> Result<(), i128> {
        if self.same() == Some(to) && to != DType::Pred {
            out.extend_from_slice(from);
            return Ok(());
        }
        for element in from.chunks_exact(self.bytes()) {
            match to.is_float() {
                true => push_float(self.float(element), to, out),
                false => push_integer(self.integer(element), to, out)?,
            }
        }
        Ok(())
    }

    fn integer(self, bytes: &[u8]) -> i128 {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        match self {
            Stored::I8 => i128::from(unsigned as i8),
            Stored::I16 => i128::from(unsigned as i16),
            Stored::I32 => i128::from(unsigned as i32),
            Stored::I64 => i128::from(unsigned as i64),
            Stored::Bool => i128::from(unsigned != 0),
            Stored::U8 | Stored::U16 | Stored::U32 | Stored::U64 => i128::from(unsigned),
            Stored::F16 | Stored::BF16 | Stored::F32 | Stored::F64 => 0,
        }
    }

    fn float(self, bytes: &[u8]) -> f64 {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        match self {
            Stored::F16 => f16::from_bits(bits as u16).to_f64(),
            Stored::BF16 => bf16::from_bits(bits as u16).to_f64(),
            Stored::F32 => f64::from(f32::from_bits(bits as u32)),
            Stored::F64 => f64::from_bits(bits),
            Stored::Bool
            | Stored::I8
            | Stored::U8
            | Stored::I16
            | Stored::U16
            | Stored::I32
            | Stored::U32
            | Stored::I64
            | Stored::U64 => self.integer(bytes) as f64,
        }
    }
}

fn push_float(value: f64, to: DType, out: &mut Vec<u8>) {
    match to {
        DType::F16 => out.extend(f16::from_f64(value).to_le_bytes()),
        DType::BF16 => out.extend(bf16::from_f64(value).to_le_bytes()),
        DType::F64 => out.extend(value.to_le_bytes()),
        DType::F32 | DType::Pred | DType::S32 | DType::S64 | DType::U8 | DType::U32 | DType::U64 => {
            out.extend((value as f32).to_le_bytes())
        }
    }
}

fn push_integer(value: i128, to: DType, out: &mut Vec<u8>) -> Result<(), i128> {
    fn put<T: TryFrom<i128>, const N: usize>(
        value: i128,
        bytes: impl Fn(T) -> [u8; N],
        out: &mut Vec<u8>,
    ) -> Result<(), i128> {
        out.extend(bytes(T::try_from(value).map_err(|_| value)?));
        Ok(())
    }
    match to {
        DType::Pred if value > 1 => Err(value),
        DType::Pred | DType::U8 => put(value, u8::to_le_bytes, out),
        DType::S32 => put(value, i32::to_le_bytes, out),
        DType::S64 => put(value, i64::to_le_bytes, out),
        DType::U32 => put(value, u32::to_le_bytes, out),
        DType::U64 => put(value, u64::to_le_bytes, out),
        DType::F16 | DType::BF16 | DType::F32 | DType::F64 => Err(value),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn converted(stored: Stored, from: &[u8], to: DType) -> Result<Vec<u8>, i128> {
        let mut out = vec![];
        stored.convert(from, to, &mut out).map(|()| out)
    }

    #[test]
    fn integers_keep_their_value_or_are_refused() {
        let tokens = [1u16, 65_535].map(u16::to_le_bytes).concat();
        let wide = [1i32, 65_535].map(i32::to_le_bytes).concat();
        assert_eq!(converted(Stored::U16, &tokens, DType::S32).unwrap(), wide);
        let labels = [3i64, -1, 1 << 40].map(i64::to_le_bytes).concat();
        assert_eq!(
            converted(Stored::I64, &labels[..8], DType::S32).unwrap(),
            3i32.to_le_bytes()
        );
        assert_eq!(converted(Stored::I64, &labels[8..16], DType::U8), Err(-1));
        assert_eq!(converted(Stored::I64, &labels[16..], DType::S32), Err(1 << 40));
        assert_eq!(converted(Stored::U8, &[0, 1, 2], DType::Pred), Err(2));
        assert_eq!(converted(Stored::Bool, &[0, 7], DType::Pred).unwrap(), [0, 1]);
    }

    #[test]
    fn floats_are_rounded_to_nearest() {
        let third = (1.0f64 / 3.0).to_le_bytes();
        assert_eq!(
            converted(Stored::F64, &third, DType::F32).unwrap(),
            (1.0f32 / 3.0).to_le_bytes()
        );
        assert_eq!(converted(Stored::U8, &[255], DType::F32).unwrap(), 255f32.to_le_bytes());
        let short = bf16::from_f32(0.3);
        assert_eq!(
            converted(Stored::BF16, &short.to_le_bytes(), DType::F32).unwrap(),
            short.to_f32().to_le_bytes()
        );
        assert!(!Stored::F32.converts_to(DType::S32));
    }

    #[test]
    fn numpy_names_have_a_byte_order() {
        assert_eq!(Stored::of_numpy("<f4"), Some(Stored::F32));
        assert_eq!(Stored::of_numpy("|u1"), Some(Stored::U8));
        assert_eq!(Stored::of_numpy(">f4"), None);
        assert_eq!(Stored::of_numpy("|O"), None);
        assert_eq!(Stored::of_numpy("é"), None);
    }
}
