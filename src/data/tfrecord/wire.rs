//! The subset of Protobuf's wire format that examples use.

/// Maximum nesting of skipped groups, protobuf's own limit.
const MAX_DEPTH: usize = 100;

const START_GROUP: u32 = 3;
const END_GROUP: u32 = 4;

/// A malformed protobuf message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}, at byte {at} of it")]
pub struct Malformed {
    reason: &'static str,
    at: usize,
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Varint(u64),
    /// A string, a message or packed numbers.
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    /// A wire type that no message here uses.
    Other,
}

/// Iterates over the fields of a message with their numbers; ends after an error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    /// Address of the end of the outermost message; errors report offsets from its start.
    whole: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Fields {
            rest: message,
            whole: message,
        }
    }

    /// Iterates over the fields of a nested message.
    pub(super) fn within(&self, message: &'a [u8]) -> Self {
        Fields {
            rest: message,
            whole: self.whole,
        }
    }

    /// An error at the current position.
    pub(super) fn malformed(&self, reason: &'static str) -> Malformed {
        let at = self.rest.as_ptr().addr().wrapping_sub(self.whole.as_ptr().addr());
        Malformed { reason, at }
    }

    fn field(&mut self) -> Result<(u32, Field<'a>), Malformed> {
        let start = *self;
        let (number, wire_type) = self.tag().ok_or_else(|| start.malformed("no field"))?;
        let field = match wire_type {
            START_GROUP => self.skip_group(number).map(|()| Field::Other),
            _ => self.value(wire_type),
        };
        let field =
            field.ok_or_else(|| start.malformed("a field of no known type, or beyond the end of its message"))?;
        Ok((number, field))
    }

    /// Reads number and wire type of the next field.
    fn tag(&mut self) -> Option<(u32, u32)> {
        let tag = u32::try_from(varint(&mut self.rest)?).ok()?;
        (tag >> 3 > 0).then_some((tag >> 3, tag & 7))
    }

    fn value(&mut self, wire_type: u32) -> Option<Field<'a>> {
        match wire_type {
            0 => varint(&mut self.rest).map(Field::Varint),
            1 => self.take(8).map(|_| Field::Other),
            2 => {
                let length = usize::try_from(varint(&mut self.rest)?).ok()?;
                self.take(length).map(Field::Bytes)
            }
            5 => Some(Field::Fixed32(self.take(4)?.try_into().ok()?)),
            _ => None,
        }
    }

    /// Skips fields up to the end of the group, including nested groups.
    fn skip_group(&mut self, number: u32) -> Option<()> {
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            match self.tag()? {
                (number, START_GROUP) if open.len() < MAX_DEPTH => open.push(number),
                (number, END_GROUP) if number == innermost => drop(open.pop()),
                (_, wire_type) => drop(self.value(wire_type)?),
            }
        }
        Some(())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Decodes a varint from the start of `bytes`. Returns `None` and consumes nothing if it is invalid. Bits beyond 64 are
/// dropped, as in protobuf.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *bytes = &bytes[i + 1..];
            return Some(number);
        }
    }
    None
}

/// Appends a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a length-delimited field: a string, a message or packed numbers.
pub(super) fn put_field(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, value.len() as u64);
    out.extend(value);
}
