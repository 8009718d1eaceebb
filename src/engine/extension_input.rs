//! Inputs of the extension that can be built and tested without it.

use super::plugin::INEXACT;
use super::{Error, Result};
use hlo::{Alias, Computation};
use lowering::lower;
use pjrt::DeviceKind;
use prost::encoding::{WireType, encode_key, encode_varint};

/// Lowers a graph for a kind of device and serialises its `HloModuleProto` in an `HloSnapshot`.
///
/// The crate reads bytes as the first of `HloSnapshot`, `HloProto` and `HloModuleProto` as which they happen to parse. The
/// last of these, whose first field is a name, can be mistaken for one of the others; the first cannot.
///
/// # Errors
/// A graph that cannot be lowered.
pub(super) fn snapshot(kind: DeviceKind, computation: &Computation, aliases: &[Alias]) -> Result<Vec<u8>> {
    let module = lower(computation, super::plugin::target(kind))?.to_bytes(aliases);
    // `HloProto.hlo_module` and `HloSnapshot.hlo`.
    Ok(first_field(&first_field(&module)))
}

/// A message whose field 1 is the message `inner`.
fn first_field(inner: &[u8]) -> Vec<u8> {
    let mut outer = Vec::with_capacity(inner.len() + 16);
    encode_key(1, WireType::LengthDelimited, &mut outer);
    encode_varint(inner.len() as u64, &mut outer);
    outer.extend_from_slice(inner);
    outer
}

/// Checks that `found`, the value of `XLA_FLAGS`, has the options that CPU programs need. The crate uses no other compile
/// options, and takes the number of CPU devices from them.
///
/// # Errors
/// [`Error::Flags`].
pub(super) fn check_flags(found: &str, replicas: usize) -> Result<()> {
    let mut expected: Vec<String> = INEXACT.iter().map(|flag| format!("--{flag}=false")).collect();
    if replicas > 1 {
        expected.push(format!("--xla_force_host_platform_device_count={replicas}"));
    }
    let given: Vec<&str> = found.split_whitespace().collect();
    let missing: Vec<&str> = expected
        .iter()
        .map(String::as_str)
        .filter(|f| !given.contains(f))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let replaced = |flag: &str| missing.iter().any(|missing| name(missing) == name(flag));
    let kept = given.iter().filter(|flag| !replaced(flag));
    let expected: Vec<&str> = kept.chain(&missing).copied().collect();
    Err(Error::Flags {
        found: found.to_owned(),
        missing: missing.join(" "),
        expected: expected.join(" "),
    })
}

/// `--name` of `--name=value`.
fn name(flag: &str) -> &str {
    flag.split_once('=').map_or(flag, |(name, _)| name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hlo::{Graph, Shape};
    use prost::Message;

    /// The fields of XLA's messages that matter here.
    #[derive(Clone, PartialEq, Message)]
    struct HloSnapshot {
        #[prost(message, optional, tag = "1")]
        hlo: Option<HloProto>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct HloProto {
        #[prost(message, optional, tag = "1")]
        hlo_module: Option<hlo::proto::Module>,
    }

    #[test]
    fn snapshot_contains_the_module() {
        // `predict`, read as a message, has the fields 14 and 12: a module of this name is a snapshot for all that its
        // first field tells.
        assert!(HloProto::decode(&b"predict"[..]).is_ok());
        let shapes = [("x".to_owned(), Shape::new(hlo::DType::F32, [300]))];
        let graph = Graph::function("predict", &shapes, |_, x| vec![x[0] + x[0]]).unwrap();
        let bytes = snapshot(DeviceKind::Cpu, &graph, &[]).unwrap();
        let module = HloSnapshot::decode(&bytes[..])
            .unwrap()
            .hlo
            .unwrap()
            .hlo_module
            .unwrap();
        let lowered = lower(&graph, lowering::Target::Cpu).unwrap();
        assert_eq!(module, lowered.to_proto(&[]));
    }

    #[test]
    fn reports_missing_flags() {
        let exact = "--xla_cpu_enable_fast_min_max=false --xla_cpu_use_xnnpack=false";
        check_flags(exact, 1).unwrap();
        check_flags(&format!("{exact}\t--xla_force_host_platform_device_count=2"), 2).unwrap();
        let message = |found: &str, replicas| check_flags(found, replicas).unwrap_err().to_string();
        assert_eq!(
            message("", 1),
            format!("engine xla: XLA_FLAGS is '', without {exact}; expected XLA_FLAGS='{exact}' in the environment")
        );
        // A flag with another value is missing; other flags stay.
        let wrong = "--xla_cpu_use_xnnpack=true --xla_dump_to=d --xla_cpu_enable_fast_min_max=false";
        assert_eq!(
            message(wrong, 1),
            format!(
                "engine xla: XLA_FLAGS is '{wrong}', without --xla_cpu_use_xnnpack=false; expected XLA_FLAGS=\
                 '--xla_dump_to=d --xla_cpu_enable_fast_min_max=false --xla_cpu_use_xnnpack=false' in the environment"
            )
        );
        assert!(message(exact, 4).contains("without --xla_force_host_platform_device_count=4;"));
    }
}
