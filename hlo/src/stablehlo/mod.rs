//! StableHLO in MLIR's textual form, for compilers that do not accept HLO.
//!
//! Operators use MLIR's generic form (`"stablehlo.add"(%0, %1) : (…) -> …`), which is uniform and needs no rules per
//! operator. Bodies and branches become regions, called computations become functions.

mod attributes;
mod constant;

use crate::emit::{Alias, identifier};
use crate::graph::{Computation, Node};
use crate::op::{Comparison, Op, Reducer, Update, array_op};
use crate::precision::MatmulPrecision;
use crate::shape::{DType, Shape};
use attributes::{attributes, comparison, precision};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

impl Computation {
    /// Emits this computation as the function `main` of a StableHLO module. It returns the outputs one by one; aliases
    /// become the argument attribute `tf.aliasing_output`.
    pub fn to_stablehlo(&self, aliases: &[Alias]) -> String {
        let mut writer = Writer {
            precision: self.matmul_precision,
            ..Writer::default()
        };
        let donated = |i: usize| {
            let alias = aliases.iter().find(|alias| alias.parameter == i);
            alias.map_or(String::new(), |alias| {
                format!(" {{tf.aliasing_output = {} : i32}}", alias.output)
            })
        };
        writer.function("public @main", self, donated);
        format!(
            "module @{} {{\n{}}}\n",
            identifier(&self.name),
            writer.functions.concat()
        )
    }
}

/// MLIR's name of an element type.
fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::Pred => "i1",
        DType::S32 => "i32",
        DType::S64 => "i64",
        DType::U8 => "ui8",
        DType::U32 => "ui32",
        DType::U64 => "ui64",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::F32 => "f32",
        DType::F64 => "f64",
    }
}

/// MLIR's name of an array type.
fn tensor(shape: &Shape) -> String {
    let dims: String = shape.dims.iter().map(|dim| format!("{dim}x")).collect();
    format!("tensor<{dims}{}>", element(shape.dtype))
}

fn tensors<'a>(shapes: impl IntoIterator<Item = &'a Shape>) -> String {
    shapes.into_iter().map(tensor).collect::<Vec<_>>().join(", ")
}

/// The name of a value, such as `%3` or `%4#1`.
type Value = String;

/// Writes functions, callees before callers.
#[derive(Default)]
struct Writer {
    functions: Vec<String>,
    /// Functions of called computations, keyed by address. The graph keeps them alive.
    called: BTreeMap<*const Computation, String>,
    precision: MatmulPrecision,
    /// Text of the body under construction.
    body: String,
    depth: usize,
    values: usize,
}

impl Writer {
    /// Writes a computation as a function; `attributes` follow the type of each argument.
    fn function(&mut self, name: &str, computation: &Computation, attributes: impl Fn(usize) -> String) {
        let outer = std::mem::take(&mut self.body);
        let depth = std::mem::replace(&mut self.depth, 2);
        let inputs = self.fresh(computation.parameters.len());
        let outputs = self.nodes(computation, &inputs);
        self.finish("func.return", &outputs, &computation.output_shapes());
        let specs = computation.parameter_specs();
        assert_eq!(specs.len(), inputs.len());
        let arguments = specs.iter().zip(&inputs).enumerate();
        let arguments =
            arguments.map(|(i, ((_, shape), value))| format!("{value}: {}{}", tensor(shape), attributes(i)));
        let head = format!(
            "  func.func {name}({}) -> ({})",
            arguments.collect::<Vec<_>>().join(", "),
            tensors(&computation.output_shapes())
        );
        let body = std::mem::replace(&mut self.body, outer);
        self.depth = depth;
        self.functions.push(format!("{head} {{\n{body}  }}\n"));
    }

    /// Fresh value names.
    fn fresh(&mut self, count: usize) -> Vec<Value> {
        let first = self.values;
        self.values += count;
        (first..self.values).map(|i| format!("%{i}")).collect()
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.body, "{:1$}{text}", "", 2 * self.depth);
    }

    /// Writes the terminator of a function or region.
    fn finish(&mut self, op: &str, outputs: &[Value], shapes: &[Shape]) {
        self.line(&format!(
            "\"{op}\"({}) : ({}) -> ()",
            outputs.join(", "),
            tensors(shapes)
        ));
    }

    /// Writes the nodes of a computation on these inputs. Returns the outputs.
    fn nodes(&mut self, computation: &Computation, inputs: &[Value]) -> Vec<Value> {
        let mut values: Vec<Vec<Value>> = Vec::with_capacity(computation.nodes.len());
        for node in &computation.nodes {
            let operand = |i: usize| values[node.operands[i]].clone();
            let results = if let Op::Parameter { index, .. } = node.op {
                vec![inputs[index].clone()]
            } else if let Op::StopGradient | Op::WithVjp(_) = node.op {
                operand(0)
            } else if let Op::GetTupleElement { index } = node.op {
                vec![operand(0)[index].clone()]
            } else {
                let operands: Vec<Value> = node.operands.iter().map(|&o| values[o][0].clone()).collect();
                let shapes: Vec<&Shape> = node.operands.iter().map(|&o| computation.nodes[o].shape()).collect();
                self.node(node, &operands, &shapes)
            };
            values.push(results);
        }
        computation.outputs.iter().map(|&o| values[o][0].clone()).collect()
    }

    fn node(&mut self, node: &Node, operands: &[Value], shapes: &[&Shape]) -> Vec<Value> {
        if let Op::TopK { k } = node.op {
            return self.top_k(k, operands, shapes, &node.shapes);
        }
        if let Op::Call { body, .. } = &node.op {
            let callee = self.callee(body);
            let instruction = Instruction::new("func.call", operands, shapes).with(format!("callee = @{callee}"));
            return self.add(instruction, &node.shapes);
        }
        if let Op::Module(module) = &node.op {
            // Only declared: a module of another program has no StableHLO text here.
            let callee = crate::emit::identifier(module.name());
            let instruction = Instruction::new("func.call", operands, shapes).with(format!("callee = @{callee}"));
            return self.add(instruction, &node.shapes);
        }
        let name = format!("stablehlo.{}", name(&node.op));
        // A branch is a region without arguments: it reads the enclosing values.
        let branches = matches!(node.op, Op::Conditional { .. });
        let seen = if branches { 1 } else { operands.len() };
        let mut instruction = Instruction::new(&name, &operands[..seen], &shapes[..seen]);
        instruction.attributes = attributes(&node.op, shapes);
        instruction.attributes.extend(precision(&node.op, self.precision));
        instruction.regions = self.regions(&node.op, operands, shapes);
        self.add(instruction, &node.shapes)
    }

    /// Writes one instruction. Returns its results.
    fn add(&mut self, instruction: Instruction, results: &[Shape]) -> Vec<Value> {
        let name = self.fresh(1).concat();
        let Instruction {
            name: op,
            operands,
            types,
            attributes,
            regions,
        } = instruction;
        let count = if results.len() == 1 {
            String::new()
        } else {
            format!(":{}", results.len())
        };
        let regions = match regions.is_empty() {
            true => String::new(),
            false => format!(" ({})", regions.join(", ")),
        };
        let attributes = match attributes.is_empty() {
            true => String::new(),
            false => format!(" {{{}}}", attributes.join(", ")),
        };
        let results_of = tensors(results);
        self.line(&format!(
            "{name}{count} = \"{op}\"({operands}){regions}{attributes} : ({types}) -> ({results_of})"
        ));
        match results.len() {
            1 => vec![name],
            n => (0..n).map(|i| format!("{name}#{i}")).collect(),
        }
    }

    /// The computations of an operator as regions, in StableHLO's order.
    fn regions(&mut self, op: &Op, operands: &[Value], shapes: &[&Shape]) -> Vec<String> {
        let dtype = shapes.first().map_or(DType::F32, |shape| shape.dtype);
        match op {
            Op::While { condition, body } => [condition, body].map(|c| self.computation(c, None)).into(),
            Op::Conditional { on_true, on_false } => [on_true, on_false]
                .map(|c| self.computation(c, Some(&operands[1..])))
                .into(),
            Op::Reduce { reducer, .. } | Op::ReduceWindow { reducer, .. } | Op::AllReduce { reducer } => {
                vec![self.combine(Some(*reducer), dtype)]
            }
            Op::Scatter { update, .. } => {
                let reducer = Some(Reducer::Add).filter(|_| *update == Update::Add);
                vec![self.combine(reducer, dtype)]
            }
            Op::SelectAndScatter { .. } => {
                let largest = self.compare(Comparison::Ge, &[dtype], false);
                vec![largest, self.combine(Some(Reducer::Add), dtype)]
            }
            Op::Sort { descending, .. } => {
                let dtypes: Vec<DType> = shapes.iter().map(|shape| shape.dtype).collect();
                vec![self.order(*descending, &dtypes)]
            }
            Op::TopK { .. } | Op::Call { .. } | Op::Module(_) => unreachable!("have no instruction of their own"),
            array_op!() => vec![],
        }
    }

    /// A region with these arguments; `write` returns its results.
    fn region(
        &mut self,
        arguments: &[Shape],
        write: impl FnOnce(&mut Self, &[Value]) -> (Vec<Value>, Vec<Shape>),
    ) -> String {
        let outer = std::mem::take(&mut self.body);
        self.depth += 1;
        let inputs = self.fresh(arguments.len());
        let (outputs, shapes) = write(self, &inputs);
        self.finish("stablehlo.return", &outputs, &shapes);
        self.depth -= 1;
        let body = std::mem::replace(&mut self.body, outer);
        let close = " ".repeat(2 * self.depth);
        if arguments.is_empty() {
            return format!("{{\n{body}{close}}}");
        }
        let typed = inputs
            .iter()
            .zip(arguments)
            .map(|(value, shape)| format!("{value}: {}", tensor(shape)));
        format!(
            "{{\n{close}^bb0({}):\n{body}{close}}}",
            typed.collect::<Vec<_>>().join(", ")
        )
    }

    /// A computation as a region: with its own arguments, or on the enclosing values `around`.
    fn computation(&mut self, computation: &Arc<Computation>, around: Option<&[Value]>) -> String {
        let shapes: Vec<Shape> = computation
            .parameter_specs()
            .into_iter()
            .map(|(_, shape)| shape)
            .collect();
        let arguments = if around.is_some() { &[][..] } else { &shapes };
        self.region(arguments, |writer, inputs| {
            let outputs = writer.nodes(computation, around.unwrap_or(inputs));
            (outputs, computation.output_shapes())
        })
    }

    /// The region that combines two elements; `None` returns the second.
    fn combine(&mut self, reducer: Option<Reducer>, dtype: DType) -> String {
        let scalar = Shape::scalar(dtype);
        let two = [scalar.clone(), scalar.clone()];
        self.region(&two, |writer, inputs| {
            let outputs = match reducer {
                None => vec![inputs[1].clone()],
                Some(reducer) => {
                    let op = format!("stablehlo.{}", reducer.name());
                    writer.add(Instruction::new(&op, inputs, &[&scalar, &scalar]), &two[..1])
                }
            };
            (outputs, vec![scalar.clone()])
        })
    }

    /// The comparator region of a sort, which orders by the elements of the first array.
    fn order(&mut self, descending: bool, dtypes: &[DType]) -> String {
        let direction = if descending { Comparison::Gt } else { Comparison::Lt };
        self.compare(direction, dtypes, true)
    }

    /// A region that compares the first pair; it has a pair of arguments for each type.
    fn compare(&mut self, direction: Comparison, dtypes: &[DType], total: bool) -> String {
        let arguments: Vec<Shape> = dtypes
            .iter()
            .flat_map(|&d| [Shape::scalar(d), Shape::scalar(d)])
            .collect();
        let pred = Shape::scalar(DType::Pred);
        self.region(&arguments, |writer, inputs| {
            let shapes = [&arguments[0], &arguments[1]];
            let mut compare = Instruction::new("stablehlo.compare", &inputs[..2], &shapes);
            compare.attributes = comparison(direction, dtypes[0], total);
            (writer.add(compare, std::slice::from_ref(&pred)), vec![pred.clone()])
        })
    }

    /// The `k` largest as the head of a stable sort, because StableHLO has no top-k.
    fn top_k(&mut self, k: usize, operands: &[Value], shapes: &[&Shape], results: &[Shape]) -> Vec<Value> {
        let keys = shapes[0];
        let positions = keys.with_dtype(DType::S32);
        let axis = keys.rank() - 1;
        let iota = Instruction::new("stablehlo.iota", &[], &[]).with(format!("iota_dimension = {axis} : i64"));
        let iota = self.add(iota, std::slice::from_ref(&positions));
        let both = [keys, &positions];
        let sort = Op::Sort { axis, descending: true };
        let mut instruction = Instruction::new("stablehlo.sort", &[operands[0].clone(), iota.concat()], &both);
        instruction.attributes = attributes(&sort, &both);
        instruction.regions = self.regions(&sort, operands, &both);
        let sorted = self.add(instruction, &both.map(Shape::clone));
        let head = Op::Slice {
            start: vec![0; keys.rank()],
            limit: results[0].dims.clone(),
            stride: vec![1; keys.rank()],
        };
        let first_k = |writer: &mut Self, i: usize| {
            let mut slice = Instruction::new("stablehlo.slice", &sorted[i..=i], &both[i..=i]);
            slice.attributes = attributes(&head, &both[i..=i]);
            writer.add(slice, &results[i..=i]).concat()
        };
        debug_assert_eq!(results[0].dims.last(), Some(&k));
        vec![first_k(self, 0), first_k(self, 1)]
    }

    /// The function of a called computation, written at the first call.
    fn callee(&mut self, body: &Arc<Computation>) -> String {
        if let Some(name) = self.called.get(&Arc::as_ptr(body)) {
            return name.clone();
        }
        let name = format!(
            "{}_{}",
            identifier(&body.name).replace(['.', '-'], "_"),
            self.called.len()
        );
        self.called.insert(Arc::as_ptr(body), name.clone());
        self.function(&format!("private @{name}"), body, |_| String::new());
        name
    }
}

/// An instruction without its results.
struct Instruction {
    name: String,
    operands: String,
    types: String,
    attributes: Vec<String>,
    regions: Vec<String>,
}

impl Instruction {
    fn new(name: &str, operands: &[Value], shapes: &[&Shape]) -> Self {
        Instruction {
            name: name.into(),
            operands: operands.join(", "),
            types: tensors(shapes.iter().copied()),
            attributes: vec![],
            regions: vec![],
        }
    }

    fn with(mut self, attribute: String) -> Self {
        self.attributes.push(attribute);
        self
    }
}

/// Operators whose names differ from HLO's by more than `_` for `-`.
const RENAMED: [(&str, &str); 3] = [
    ("broadcast", "broadcast_in_dim"),
    ("dot", "dot_general"),
    ("conditional", "if"),
];

/// StableHLO's name of an operator.
fn name(op: &Op) -> String {
    let renamed = RENAMED.iter().find(|(hlo, _)| *hlo == op.name());
    renamed.map_or_else(|| op.name().replace('-', "_"), |(_, name)| name.to_string())
}
