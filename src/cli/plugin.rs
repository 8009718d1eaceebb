//! `rigl-xla plugin`: list, install and test device plugins.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hlo::{DType, Graph, Literal, Shape};
use serde::Serialize;
use serde_json::json;

use super::input_args::PluginArgs;
use super::table_args::TableArgs;
use crate::cli::error::{Context, Result, bail};
use crate::host_functions;
use crate::named::Named;
use crate::plugins::{self, Candidate, Chips, Holds, PACKAGES, Package, Slice, Trust};
use crate::report::table::{Style, Table};
use pjrt::{
    Arg, Buffer, Client, ClientOptions, CompileOptions, DeviceInfo, DeviceKind, Executable, OptionValue, Plugin,
    SlotCoverage,
};

/// Arguments of `plugin`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// List the known plugin packages and which of them are installed
    List(TableArgs),
    /// Install a plugin package into the cache
    Fetch {
        /// Device (for its default package) or package name
        #[arg(value_name = "DEVICE|PACKAGE", default_value = "cpu")]
        what: String,
    },
    /// Load a plugin, show its features and run small programs on it
    Doctor(DoctorArgs),
}

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
struct DoctorArgs {
    #[command(flatten)]
    on: PluginArgs,
    /// Seconds to wait for a TPU, which waits for the other hosts of its slice
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86400))]
    wait: u64,
}

/// Runs `plugin`.
///
/// # Errors
/// A plugin that cannot be installed, loaded or run.
pub fn run(args: Args, json: bool) -> Result<()> {
    match args.command {
        Command::List(table) => list(table, json),
        Command::Fetch { what } => fetch(&what, json),
        Command::Doctor(args) => doctor(&args, json),
    }
}

fn list(table: TableArgs, json: bool) -> Result<()> {
    let style = table.style(json)?;
    let mut here: Vec<Candidate> = Vec::new();
    for device in DeviceKind::ALL {
        here.extend(
            plugins::search(device, None, Trust::Stamp)?
                .into_iter()
                .filter(|c| c.found),
        );
    }
    if json {
        return super::print_json(&json!({ "packages": PACKAGES, "found": here }));
    }
    let mut table = Table::new(&["device", "package", "version", "found"]);
    for package in PACKAGES {
        let path = match package.holds {
            Holds::Plugin => here
                .iter()
                .find(|c| c.package == Some(package.name))
                .map(|c| c.path.clone()),
            Holds::HostFunctions | Holds::Program => plugins::cached(package, Trust::Stamp)?,
        };
        let path = path.map(|path| path.display().to_string());
        let default = Package::of(package.device)
            .next()
            .is_some_and(|first| first.name == package.name);
        let name = format!("{}{}", package.name, if default { " *" } else { "" });
        let path = path.unwrap_or_else(|| "-".to_owned());
        table.row([package.device.to_string(), name, package.version.to_string(), path]);
    }
    let note = match style {
        Style::Csv => "",
        Style::Text | Style::Markdown => "* default of its device\n",
    };
    super::print(&(table.write(style) + note))
}

fn fetch(what: &str, json: bool) -> Result<()> {
    let device = DeviceKind::find(what)
        .ok()
        .and_then(|device| Package::of(device).next());
    let package = device.map_or_else(|| Package::named(what), Ok)?;
    let path = plugins::fetch(package)?;
    match json {
        true => super::print_json(
            &json!({ "package": package, "path": path.display().to_string(), "verified": package.sha256.is_some() }),
        ),
        false => super::print(&format!("{} is in {}\n", package.requirement(), path.display())),
    }
}

/// Report of `doctor`.
#[derive(Serialize)]
struct Findings {
    device: DeviceKind,
    search: Vec<Candidate>,
    #[serde(serialize_with = "crate::report::path")]
    path: PathBuf,
    fingerprint: String,
    api_version: (i32, i32),
    coverage: SlotCoverage,
    extensions: Vec<String>,
    /// Library that computes convolutions in CPU programs; absent if the plugin compiles them.
    host_functions: Option<String>,
    attributes: BTreeMap<String, OptionValue>,
    platform: String,
    platform_version: String,
    devices: Vec<DeviceInfo>,
    /// TPU chips on the PCI bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    chips: Option<Chips>,
    /// Hosts of the TPU slice.
    #[serde(skip_serializing_if = "Option::is_none")]
    slice: Option<Slice>,
    timings: Timings,
}

/// Timings of small programs; the first three in seconds.
#[derive(Serialize)]
struct Timings {
    load_s: f64,
    client_s: f64,
    compile_s: f64,
    /// One execution of a tiny program including the wait for its result, in microseconds.
    latency_us: f64,
    /// Throughput of f32 matrix products, by shape.
    matmul_gflops: BTreeMap<String, f64>,
}

fn doctor(args: &DoctorArgs, json: bool) -> Result<()> {
    let device = DeviceKind::find(args.on.device.as_deref().unwrap_or("cpu"))?;
    let explicit = args.on.plugin.as_deref();
    let search = plugins::search(device, explicit, Trust::Nothing)?;
    for package in PACKAGES.iter().filter(|package| package.holds == Holds::HostFunctions) {
        // A damaged plugin is noted here and then downloaded again.
        plugins::cached(package, Trust::Nothing)?;
    }
    plugins::require(device, explicit)?;
    let start = Instant::now();
    let plugin = plugins::open(device, explicit)?;
    let load_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let patience = Some(Duration::from_secs(args.wait));
    let client = plugins::start(device, plugin, &ClientOptions::for_device(device), patience)?;
    let client_s = start.elapsed().as_secs_f64();
    let timings = smoke_test(&client, load_s, client_s).context("the plugin loads, but does not run programs")?;
    let findings = examine(device, search, plugin, &client, timings)?;
    match json {
        true => super::print_json(&findings),
        false => super::print(&text_of(&findings)?),
    }
}

fn examine(
    device: DeviceKind,
    search: Vec<Candidate>,
    plugin: Plugin,
    client: &Client,
    timings: Timings,
) -> Result<Findings> {
    Ok(Findings {
        device,
        search,
        path: plugin.path().to_owned(),
        fingerprint: plugin.fingerprint()?.to_owned(),
        api_version: plugin.api_version(),
        coverage: plugin.coverage(),
        extensions: plugin.extensions(),
        host_functions: match device {
            DeviceKind::Cpu => host_functions::register(plugin)?,
            _ => None,
        },
        attributes: plugin.attributes()?,
        platform: client.platform_name()?,
        platform_version: client.platform_version()?,
        devices: client.devices()?,
        chips: Chips::find(Path::new("/")).filter(|_| device == DeviceKind::Tpu),
        slice: (device == DeviceKind::Tpu).then(Slice::from_environment),
        timings,
    })
}

fn text_of(found: &Findings) -> Result<String> {
    let mut out = String::new();
    writeln!(out, "searched")?;
    for candidate in &found.search {
        let mark = match (candidate.found, &candidate.damaged) {
            (true, _) => "found",
            (false, None) => "-",
            (false, Some(_)) => "damaged",
        };
        writeln!(
            out,
            "  {mark:<7} {:<12} {}",
            text(&candidate.origin)?,
            candidate.path.display()
        )?;
        if let Some(damage) = &candidate.damaged {
            writeln!(out, "          {damage}; fetched again")?;
        }
    }
    let (major, minor) = found.api_version;
    writeln!(out, "plugin      {}", found.path.display())?;
    writeln!(out, "fingerprint {}", found.fingerprint)?;
    let slots = &found.coverage;
    writeln!(
        out,
        "C API       {major}.{minor} (accepted: 0.{} and newer)",
        pjrt::MINIMUM_MINOR
    )?;
    writeln!(
        out,
        "functions   {} of {} (table of {} bytes, ours {})",
        slots.slots - slots.missing.len(),
        slots.slots,
        slots.plugin_bytes,
        slots.header_bytes
    )?;
    for name in &slots.missing {
        writeln!(out, "  lacks {name}")?;
    }
    writeln!(out, "extensions  {}", found.extensions.join(", "))?;
    if found.device == DeviceKind::Cpu {
        let library = found.host_functions.as_deref().unwrap_or("none");
        writeln!(out, "host calls  {library}")?;
    }
    for (name, value) in &found.attributes {
        writeln!(out, "attribute   {name} = {value}")?;
    }
    writeln!(
        out,
        "platform    {} ({})",
        found.platform,
        found.platform_version.lines().collect::<Vec<_>>().join("; ")
    )?;
    if let Some(chips) = &found.chips {
        writeln!(out, "chips       {chips} on the PCI bus")?;
    }
    if let Some(slice) = &found.slice {
        writeln!(out, "hosts       {slice}")?;
    }
    for device in &found.devices {
        writeln!(out, "device      {} {}: {}", device.id, device.kind, device.description)?;
    }
    let t = &found.timings;
    writeln!(
        out,
        "timings     load {:.3} s, client {:.3} s, compile {:.3} s, tiny program {:.1} us",
        t.load_s, t.client_s, t.compile_s, t.latency_us
    )?;
    for (shape, rate) in &t.matmul_gflops {
        writeln!(out, "  {shape}: {rate:.1} GFLOP/s")?;
    }
    out.push_str("the plugin works\n");
    Ok(out)
}

/// Serialised name of a unit variant.
fn text(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_value(value)?
        .as_str()
        .map_or_else(String::new, str::to_owned))
}

/// Compiles and runs matrix products, checks their results, and measures times.
fn smoke_test(client: &Client, load_s: f64, client_s: f64) -> Result<Timings> {
    let start = Instant::now();
    let tiny = Product::compile(client, 2, 2, 2)?;
    let compile_s = start.elapsed().as_secs_f64();
    let latency_us = 1e6 * tiny.fastest_s(1000)?;
    let mut matmul_gflops = BTreeMap::new();
    for (m, k, n, runs) in [(100, 784, 300, 100), (1024, 1024, 1024, 10)] {
        let product = Product::compile(client, m, k, n)?;
        let flops = 2.0 * (m * k * n) as f64;
        matmul_gflops.insert(format!("{m}x{k}x{n}"), 1e-9 * flops / product.fastest_s(runs)?);
    }
    Ok(Timings {
        load_s,
        client_s,
        compile_s,
        latency_us,
        matmul_gflops,
    })
}

/// An f32 matrix product of ones on device 0.
struct Product {
    executable: Executable,
    arguments: [Buffer; 2],
}

impl Product {
    fn compile(client: &Client, m: usize, k: usize, n: usize) -> Result<Product> {
        let shapes = [[m, k], [k, n]].map(|dims| Shape::new(DType::F32, dims));
        let g = Graph::new("product");
        let [a, b] = shapes.each_ref().map(|shape| g.parameter("operand", shape.clone()));
        let output = a.matmul(b).output();
        // The first device of this host, which need not have number 0.
        let first = client.addressable_devices()?.into_iter().take(1);
        let options = CompileOptions {
            device_ids: Some(first.map(|device| device.id).collect()),
            ..CompileOptions::default()
        };
        let executable = client.compile(&g.build(&[output])?.to_bytes(&[]), &options)?;
        let ones = |shape: &Shape| client.to_device(&Literal::new(&shape.dims, &vec![1.0f32; shape.elements()]), 0);
        let product = Product {
            executable,
            arguments: [ones(&shapes[0])?, ones(&shapes[1])?],
        };
        let result = product.execute()?.to_literal()?;
        let expected = Literal::new(&[m, n], &vec![k as f32; m * n]);
        if result != expected {
            bail!("a {m}x{k}x{n} product of ones is not {k} everywhere");
        }
        Ok(product)
    }

    fn execute(&self) -> Result<Buffer> {
        let arguments = self.arguments.iter().map(Arg::Keep).collect();
        self.executable
            .execute(arguments)?
            .pop()
            .context("the program has no result")
    }

    /// Minimum time over several executions, in seconds: the least disturbed by other load.
    fn fastest_s(&self, runs: usize) -> Result<f64> {
        let mut fastest = f64::INFINITY;
        for _ in 0..runs {
            let start = Instant::now();
            self.execute()?.wait()?;
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        Ok(fastest)
    }
}
