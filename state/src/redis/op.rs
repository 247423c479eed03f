//! One operation of the library, with its keys and arguments; and reading its answer.

use redis::Value;

use crate::StoreError;

/// What may share a call with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Other reads.
    Read,
    /// Other writes.
    Write,
    /// Nothing: it may delete keys.
    Alone,
}

/// An operation.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) keys: Vec<String>,
    pub(super) args: Vec<Vec<u8>>,
}

impl Op {
    pub(super) fn new(name: &'static str, kind: Kind, keys: Vec<String>) -> Self {
        Self { name, kind, keys, args: Vec::new() }
    }

    /// Adds an argument.
    pub(super) fn arg(mut self, arg: impl Arg) -> Self {
        self.args.push(arg.into_bytes());
        self
    }

    /// Adds the arguments that prove ownership, with the incarnation first.
    pub(super) fn fence(self, fence: &crate::Fence) -> Self {
        self.arg(fence.session.incarnation).arg(fence.epoch).arg(fence.nonce)
    }

    /// Bytes that it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        let keys: usize = self.keys.iter().map(|key| key.len() + 16).sum();
        let args: usize = self.args.iter().map(|arg| arg.len() + 16).sum();
        64 + keys + args
    }
}

/// What can be an argument.
pub(super) trait Arg {
    fn into_bytes(self) -> Vec<u8>;
}

impl Arg for Vec<u8> {
    fn into_bytes(self) -> Vec<u8> {
        self
    }
}

impl Arg for &[u8] {
    fn into_bytes(self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Arg for &str {
    fn into_bytes(self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl Arg for String {
    fn into_bytes(self) -> Vec<u8> {
        String::into_bytes(self)
    }
}

impl Arg for u64 {
    fn into_bytes(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl Arg for bool {
    fn into_bytes(self) -> Vec<u8> {
        vec![if self { b'1' } else { b'0' }]
    }
}

pub(super) type Result<T> = std::result::Result<T, StoreError>;

const UNEXPECTED: StoreError = StoreError::Damaged { what: "answer of a function" };

/// An answer, read step by step.
pub(super) trait Answer: Sized {
    /// Turns a refusal by name into its error.
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

impl Answer for Value {
    fn accepted(self, quota: StoreError) -> Result<Self> {
        match &self {
            Value::BulkString(name) => match name.as_slice() {
                b"N" => Err(StoreError::NoSession),
                b"F" => Err(StoreError::Fenced),
                b"Q" => Err(quota),
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
