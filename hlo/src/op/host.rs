//! Functions that a host offers programs by name.

/// A function of the host's that computes what a called computation says, from arrays in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFunction {
    /// The name under which it is offered.
    pub name: &'static str,
    /// What a call says besides its operands: lists of numbers by name.
    pub attributes: Vec<(&'static str, Vec<i64>)>,
}

impl HostFunction {
    /// Without attributes.
    pub fn named(name: &'static str) -> Self {
        let attributes = vec![];
        HostFunction { name, attributes }
    }

    /// The attributes as the text that a program carries them in.
    pub(crate) fn configuration(&self) -> String {
        dictionary(&self.attributes)
    }
}

/// Lists of numbers by name, as MLIR writes a dictionary.
pub(super) fn dictionary(lists: &[(&'static str, Vec<i64>)]) -> String {
    let lists = lists.iter().map(|(name, values)| {
        let values: Vec<String> = values.iter().map(i64::to_string).collect();
        format!("{name} = array<i64: {}>", values.join(", "))
    });
    format!("{{{}}}", lists.collect::<Vec<_>>().join(", "))
}
