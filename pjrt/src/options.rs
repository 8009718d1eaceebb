//! Compile options and their protobuf form (XLA's `CompileOptionsProto`; only the fields that are set).

use std::collections::BTreeMap;

use prost::Message;

use crate::api::OptionValue;

/// Compile options.
#[derive(Clone, Debug, PartialEq)]
pub struct CompileOptions {
    /// Number of data-parallel copies of the program, each with its own device and arguments.
    pub num_replicas: usize,
    /// Number of partitions of the SPMD partitioner.
    pub num_partitions: usize,
    /// Device ids by replica, then by partition; `None` for the default of the plugin.
    pub device_ids: Option<Vec<i64>>,
    /// XLA's debug options by name, such as `xla_cpu_enable_fast_math`.
    pub xla_flags: BTreeMap<String, OptionValue>,
}

impl Default for CompileOptions {
    /// One replica on the plugin's default device.
    fn default() -> Self {
        CompileOptions {
            num_replicas: 1,
            num_partitions: 1,
            device_ids: None,
            xla_flags: BTreeMap::new(),
        }
    }
}

impl CompileOptions {
    /// Options for `num_replicas` data-parallel copies.
    pub fn replicated(num_replicas: usize) -> Self {
        CompileOptions {
            num_replicas,
            ..CompileOptions::default()
        }
    }

    /// The serialized `CompileOptionsProto`; equal options give equal bytes.
    pub fn to_proto(&self) -> Vec<u8> {
        let build = ExecutableBuildOptions {
            device_ordinal: -1,
            num_replicas: self.num_replicas as i64,
            num_partitions: self.num_partitions as i64,
            use_spmd_partitioning: self.num_partitions > 1,
            device_assignment: self.device_ids.as_deref().map(|ids| self.assignment(ids)),
        };
        let overrides = self
            .xla_flags
            .iter()
            .map(|(name, value)| (name.clone(), value.into()))
            .collect();
        CompileOptionsProto {
            executable_build_options: Some(build),
            env_option_overrides: overrides,
        }
        .encode_to_vec()
    }

    fn assignment(&self, ids: &[i64]) -> DeviceAssignment {
        let partition = |p: usize| ComputationDevice {
            replica_device_ids: ids
                .iter()
                .skip(p)
                .step_by(self.num_partitions.max(1))
                .copied()
                .collect(),
        };
        DeviceAssignment {
            replica_count: self.num_replicas as i32,
            computation_count: self.num_partitions as i32,
            computation_devices: (0..self.num_partitions).map(partition).collect(),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct CompileOptionsProto {
    #[prost(message, optional, tag = "3")]
    executable_build_options: Option<ExecutableBuildOptions>,
    #[prost(btree_map = "string, message", tag = "7")]
    env_option_overrides: BTreeMap<String, OptionOverride>,
}

#[derive(Clone, PartialEq, Message)]
struct ExecutableBuildOptions {
    /// -1: not set.
    #[prost(int64, tag = "1")]
    device_ordinal: i64,
    #[prost(int64, tag = "4")]
    num_replicas: i64,
    #[prost(int64, tag = "5")]
    num_partitions: i64,
    #[prost(bool, tag = "6")]
    use_spmd_partitioning: bool,
    #[prost(message, optional, tag = "9")]
    device_assignment: Option<DeviceAssignment>,
}

#[derive(Clone, PartialEq, Message)]
struct DeviceAssignment {
    #[prost(int32, tag = "1")]
    replica_count: i32,
    #[prost(int32, tag = "2")]
    computation_count: i32,
    #[prost(message, repeated, tag = "3")]
    computation_devices: Vec<ComputationDevice>,
}

#[derive(Clone, PartialEq, Message)]
struct ComputationDevice {
    #[prost(int64, repeated, tag = "1")]
    replica_device_ids: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct OptionOverride {
    #[prost(oneof = "OverrideValue", tags = "1, 2, 3, 4")]
    value: Option<OverrideValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OverrideValue {
    #[prost(string, tag = "1")]
    Str(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}

impl From<&OptionValue> for OptionOverride {
    fn from(value: &OptionValue) -> Self {
        let value = match value {
            OptionValue::Str(v) => OverrideValue::Str(v.clone()),
            OptionValue::Bool(v) => OverrideValue::Bool(*v),
            OptionValue::Int(v) => OverrideValue::Int(*v),
            OptionValue::Float(v) => OverrideValue::Double(f64::from(*v)),
            // XLA parses lists out of text, as on its own command line.
            OptionValue::IntList(v) => OverrideValue::Str(v.iter().map(i64::to_string).collect::<Vec<_>>().join(",")),
        };
        OptionOverride { value: Some(value) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn default_options_are_the_expected_bytes() {
        // Field 3 (14 bytes): field 1 = -1 as a ten-byte varint, field 4 = 1, field 5 = 1.
        let expected = [&[0x1a, 15, 0x08][..], &[0xff; 9], &[0x01, 0x20, 1, 0x28, 1]].concat();
        assert_eq!(CompileOptions::default().to_proto(), expected);
    }

    #[test]
    fn assignment_lists_replicas_by_partition() {
        let options = CompileOptions {
            num_replicas: 2,
            num_partitions: 2,
            ..CompileOptions::default()
        };
        let assignment = options.assignment(&[0, 1, 2, 3]);
        let ids: Vec<_> = assignment
            .computation_devices
            .into_iter()
            .map(|d| d.replica_device_ids)
            .collect();
        assert_eq!(ids, [[0, 2], [1, 3]]);
    }
}
