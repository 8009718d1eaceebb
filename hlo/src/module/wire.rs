//! The fields of a serialized module that a caller needs, byte for byte.

/// Field numbers of `HloModuleProto`: its computations, and the stack frames to which their instructions refer.
const COMPUTATIONS: u64 = 3;
const STACK_FRAMES: u64 = 17;

/// The serialized fields with the computations and stack frames of a module. `None` if a field is malformed.
pub(super) fn callable(module: &[u8]) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(module.len());
    let mut rest = module;
    while !rest.is_empty() {
        let field = rest;
        let tag = varint(&mut rest)?;
        let length = match tag & 7 {
            0 => varint(&mut rest).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut rest),
            5 => Some(4),
            _ => None,
        }?;
        rest = rest.get(usize::try_from(length).ok()?..)?;
        if [COMPUTATIONS, STACK_FRAMES].contains(&(tag >> 3)) {
            kept.extend_from_slice(&field[..field.len() - rest.len()]);
        }
    }
    Some(kept)
}

/// Reads a number and moves past it.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
