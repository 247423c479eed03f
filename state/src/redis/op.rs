//! One operation of the library, with its keys and arguments; and how its answer is read.

use std::collections::HashMap;
use std::io::Write;

use mqtt::PacketId;
use redis::Value;

use super::operations::word;
use super::seat::Seating;
use crate::{ConnectionId, Fence, Number, StoreError};

/// How an operation is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes nothing.
    Read,
    /// It writes what may be written any number of times, or not at all: its call has no number, its outcome is not kept, and
    /// nobody waits until replicas have it.
    Unnumbered,
    /// It writes, once.
    Write,
    /// The same in a call of its own, since it may delete keys.
    Alone,
}

impl Kind {
    /// Whether its call has a number, and is carried out once, however often it is sent.
    pub(super) fn is_numbered(self) -> bool {
        matches!(self, Self::Write | Self::Alone)
    }

    /// Whether the two may share a call.
    pub(super) fn goes_with(self, other: Self) -> bool {
        self != Self::Alone && other != Self::Alone && self.is_numbered() == other.is_numbered()
    }
}

/// An operation: see [`super::operations`].
#[derive(Debug)]
pub(super) struct Op {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) keys: Vec<String>,
    pub(super) args: Args,
}

impl Op {
    pub(super) fn new(name: &'static str, kind: Kind, keys: Vec<String>) -> Self {
        Self { name, kind, keys, args: Args::default() }
    }

    /// Bytes that it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        let keys: usize = self.keys.iter().map(|key| key.len() + 16).sum();
        64 + keys + self.args.bytes.len() + 16 * self.args.len()
    }
}

/// Arguments one behind the other.
#[derive(Debug, Default)]
pub(super) struct Args {
    bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Args {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all of them.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn push(&mut self, arg: &[u8]) {
        self.end(|bytes| bytes.extend_from_slice(arg));
    }

    pub(super) fn number(&mut self, number: u64) {
        self.display(number);
    }

    fn display(&mut self, arg: impl std::fmt::Display) {
        // Writing into memory does not fail.
        self.end(|bytes| write!(bytes, "{arg}").unwrap_or_default());
    }

    /// One that is written here.
    pub(super) fn end(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// An operation: what comes before its arguments, and these.
    pub(super) fn operation(&mut self, name: &str, keys: usize, args: &Self) {
        self.push(name.as_bytes());
        self.number(keys as u64);
        self.number(args.len() as u64);
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&args.bytes);
        self.ends.extend(args.ends.iter().map(|end| before + end));
    }

    pub(super) fn each<'a>(&'a self, mut see: impl FnMut(&'a [u8])) {
        let mut begin = 0;
        for end in &self.ends {
            see(self.bytes.get(begin..*end).unwrap_or_default());
            begin = *end;
        }
    }
}

/// What a type is as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One argument.
    One,
    /// One for each of these.
    Parts(&'static [&'static str]),
    /// Any number of them.
    List,
}

/// What can be an argument.
pub(super) trait Arg {
    const FORM: Form = Form::One;

    fn put(self, args: &mut Args);
}

impl Arg for Vec<u8> {
    fn put(self, args: &mut Args) {
        args.push(&self);
    }
}

impl Arg for &[u8] {
    fn put(self, args: &mut Args) {
        args.push(self);
    }
}

impl Arg for &str {
    fn put(self, args: &mut Args) {
        args.push(self.as_bytes());
    }
}

impl Arg for bool {
    fn put(self, args: &mut Args) {
        args.push(if self { b"1" } else { b"0" });
    }
}

impl Arg for u64 {
    fn put(self, args: &mut Args) {
        args.number(self);
    }
}

impl Arg for u32 {
    fn put(self, args: &mut Args) {
        args.number(u64::from(self));
    }
}

impl Arg for u16 {
    fn put(self, args: &mut Args) {
        args.number(u64::from(self));
    }
}

impl Arg for u8 {
    fn put(self, args: &mut Args) {
        args.number(u64::from(self));
    }
}

/// Nothing is the empty text.
impl Arg for Option<u64> {
    fn put(self, args: &mut Args) {
        match self {
            Some(number) => args.number(number),
            None => args.push(b""),
        }
    }
}

impl Arg for Number {
    fn put(self, args: &mut Args) {
        args.number(self.0);
    }
}

impl Arg for PacketId {
    fn put(self, args: &mut Args) {
        args.number(u64::from(self.as_u16()));
    }
}

impl Arg for ConnectionId {
    fn put(self, args: &mut Args) {
        args.display(format_args!("{:032x}", self.0));
    }
}

/// Proof of ownership.
impl Arg for &Fence {
    const FORM: Form = Form::Parts(&["incarnation", "epoch", "nonce"]);

    fn put(self, args: &mut Args) {
        args.number(self.session.incarnation);
        args.number(self.epoch);
        args.number(self.nonce);
    }
}

impl Arg for Vec<Vec<u8>> {
    const FORM: Form = Form::List;

    fn put(self, args: &mut Args) {
        self.iter().for_each(|arg| args.push(arg));
    }
}

impl Arg for Seating {
    fn put(self, args: &mut Args) {
        match self {
            Self::NotNeeded => args.push(b""),
            Self::Needed => args.push(&[word::NO_SEAT]),
            Self::Taken(_) => args.push(&[word::SEAT]),
        }
    }
}

/// A list that is written behind the other arguments by whoever makes the call.
pub(super) struct Rest;

impl Arg for Rest {
    const FORM: Form = Form::List;

    fn put(self, _: &mut Args) {}
}

pub(super) type Result<T> = std::result::Result<T, StoreError>;

const UNEXPECTED: StoreError = StoreError::Damaged { what: "answer of a function" };

/// An answer, read step by step.
pub(super) trait ReadAnswer: Sized {
    /// Turns a refusal into its error.
    fn accepted(self, quota: StoreError) -> Result<Self>;
    /// A list.
    fn list(self) -> Result<Vec<Value>>;
    /// A list of so many.
    fn tuple<const N: usize>(self) -> Result<[Value; N]>;
    /// A number.
    fn number(&self) -> Result<i64>;
    /// A number that is not negative.
    fn count(&self) -> Result<u64>;
    /// A number, or nothing.
    fn maybe_count(&self) -> Result<Option<u64>>;
    /// Bytes.
    fn bytes(self) -> Result<Vec<u8>>;
    /// Text.
    fn text(self) -> Result<String>;
    /// The value, or nothing.
    fn maybe(self) -> Option<Value>;
}

impl ReadAnswer for Value {
    fn accepted(self, quota: StoreError) -> Result<Self> {
        match &self {
            Value::BulkString(said) => match said.as_slice() {
                [word::NO_SESSION] => Err(StoreError::NoSession),
                [word::FENCED] => Err(StoreError::Fenced),
                [word::QUOTA] => Err(quota),
                _ => Ok(self),
            },
            _ => Ok(self),
        }
    }

    fn list(self) -> Result<Vec<Value>> {
        match self {
            Value::Array(values) => Ok(values),
            _ => Err(UNEXPECTED),
        }
    }

    fn tuple<const N: usize>(self) -> Result<[Value; N]> {
        self.list()?.try_into().map_err(|_| UNEXPECTED)
    }

    fn number(&self) -> Result<i64> {
        match self {
            Value::Int(number) => Ok(*number),
            Value::BulkString(text) => {
                std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(UNEXPECTED)
            }
            _ => Err(UNEXPECTED),
        }
    }

    fn count(&self) -> Result<u64> {
        match self {
            // A score, or an incarnation, which needs all 64 bits.
            Value::BulkString(text) => {
                let text = std::str::from_utf8(text).map_err(|_| UNEXPECTED)?;
                if let Ok(count) = text.parse() {
                    return Ok(count);
                }
                let score: f64 = text.parse().map_err(|_| UNEXPECTED)?;
                Ok(score as u64)
            }
            other => u64::try_from(other.number()?).map_err(|_| UNEXPECTED),
        }
    }

    fn maybe_count(&self) -> Result<Option<u64>> {
        if *self == Value::Nil { Ok(None) } else { self.count().map(Some) }
    }

    fn bytes(self) -> Result<Vec<u8>> {
        match self {
            Value::BulkString(bytes) => Ok(bytes),
            Value::SimpleString(text) => Ok(text.into_bytes()),
            _ => Err(UNEXPECTED),
        }
    }

    fn text(self) -> Result<String> {
        String::from_utf8(self.bytes()?).map_err(|_| UNEXPECTED)
    }

    fn maybe(self) -> Option<Value> {
        (self != Value::Nil).then_some(self)
    }
}

/// Pairs of a flat list.
pub(super) fn pairs(flat: Value) -> Result<HashMap<Vec<u8>, Vec<u8>>> {
    let mut values = flat.list()?.into_iter();
    let mut found = HashMap::with_capacity(values.len() / 2);
    while let (Some(key), Some(value)) = (values.next(), values.next()) {
        found.insert(key.bytes()?, value.bytes()?);
    }
    Ok(found)
}
