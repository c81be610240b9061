//! JSON for types of the standard library, in the format of serde except for `Instant`, which serde lacks.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{Fields, FromJson, Mistake, ToFields, ToJson, Writer};
use crate::sorted::{SortedMap, SortedSet};

impl ToJson for Value {
    fn write(&self, out: &mut Writer) {
        out.value(self);
    }
}

impl FromJson for Value {
    fn read(value: Value) -> Result<Value, Mistake> {
        Ok(value)
    }
}

impl ToJson for str {
    fn write(&self, out: &mut Writer) {
        out.text(self);
    }
}

impl ToJson for String {
    fn write(&self, out: &mut Writer) {
        out.text(self);
    }
}

impl FromJson for String {
    fn read(value: Value) -> Result<String, Mistake> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(Mistake::expected("a string", &other)),
        }
    }
}

impl ToJson for bool {
    fn write(&self, out: &mut Writer) {
        out.raw(if *self { "true" } else { "false" });
    }
}

impl FromJson for bool {
    fn read(value: Value) -> Result<bool, Mistake> {
        value.as_bool().ok_or_else(|| Mistake::expected("a boolean", &value))
    }
}

macro_rules! integers {
    ($wide:ident by $as_wide:ident: $($number:ty),+) => {$(
        impl ToJson for $number {
            fn write(&self, out: &mut Writer) {
                out.value(&Value::from(*self));
            }
        }

        impl FromJson for $number {
            fn read(value: Value) -> Result<$number, Mistake> {
                let number = value.$as_wide().and_then(|wide| <$number>::try_from(wide).ok());
                number.ok_or_else(|| {
                    Mistake::expected(concat!("a number of type ", stringify!($number)), &value)
                })
            }
        }
    )+};
}

integers!(u64 by as_u64: u8, u32, u64, usize);
integers!(i64 by as_i64: i32, i64);

impl ToJson for f64 {
    fn write(&self, out: &mut Writer) {
        out.value(&Value::from(*self));
    }
}

impl FromJson for f64 {
    fn read(value: Value) -> Result<f64, Mistake> {
        value.as_f64().ok_or_else(|| Mistake::expected("a number", &value))
    }
}

impl ToJson for PathBuf {
    fn write(&self, out: &mut Writer) {
        match self.to_str() {
            Some(text) => out.text(text),
            None => out.fail(Mistake::new(format!("the path {} is not UTF-8", self.display()))),
        }
    }
}

impl FromJson for PathBuf {
    fn read(value: Value) -> Result<PathBuf, Mistake> {
        String::read(value).map(PathBuf::from)
    }
}

impl ToJson for SocketAddr {
    fn write(&self, out: &mut Writer) {
        out.display(self);
    }
}

impl FromJson for SocketAddr {
    fn read(value: Value) -> Result<SocketAddr, Mistake> {
        String::read(value)?.parse().map_err(|_| Mistake::new("expected an address and a port"))
    }
}

impl ToFields for Duration {
    fn write_fields(&self, out: &mut Writer) {
        out.field("secs", &self.as_secs());
        out.field("nanos", &self.subsec_nanos());
    }
}

impl ToJson for Duration {
    fn write(&self, out: &mut Writer) {
        out.object(self);
    }
}

impl FromJson for Duration {
    fn read(value: Value) -> Result<Duration, Mistake> {
        let mut fields = Fields::of(value)?;
        let (secs, nanos) = (fields.take("secs")?, fields.take("nanos")?);
        whole_duration(secs, nanos)
    }
}

/// Returns a duration. Unlike [`Duration::new`], an overflow is not a panic but an error, because the
/// numbers come from outside.
fn whole_duration(secs: u64, nanos: u32) -> Result<Duration, Mistake> {
    let duration = Duration::from_secs(secs).checked_add(Duration::from_nanos(nanos.into()));
    duration.ok_or_else(|| Mistake::new("a duration of too many seconds"))
}

/// Written as the time since the epoch; an earlier time becomes the epoch.
impl ToJson for SystemTime {
    fn write(&self, out: &mut Writer) {
        struct Since(Duration);
        impl ToFields for Since {
            fn write_fields(&self, out: &mut Writer) {
                out.field("secs_since_epoch", &self.0.as_secs());
                out.field("nanos_since_epoch", &self.0.subsec_nanos());
            }
        }
        out.object(&Since(self.duration_since(UNIX_EPOCH).unwrap_or_default()));
    }
}

impl FromJson for SystemTime {
    fn read(value: Value) -> Result<SystemTime, Mistake> {
        let mut fields = Fields::of(value)?;
        let (secs, nanos) = (fields.take("secs_since_epoch")?, fields.take("nanos_since_epoch")?);
        let time = UNIX_EPOCH.checked_add(whole_duration(secs, nanos)?);
        time.ok_or_else(|| Mistake::new("a time too far from now"))
    }
}

impl<T: ToJson + ?Sized> ToJson for &T {
    fn write(&self, out: &mut Writer) {
        (**self).write(out);
    }
}

impl<T: ToJson> ToJson for Box<T> {
    fn write(&self, out: &mut Writer) {
        (**self).write(out);
    }
}

impl<T: FromJson> FromJson for Box<T> {
    fn read(value: Value) -> Result<Box<T>, Mistake> {
        T::read(value).map(Box::new)
    }
}

impl<T: ToJson> ToJson for Option<T> {
    fn write(&self, out: &mut Writer) {
        match self {
            Some(value) => value.write(out),
            None => out.raw("null"),
        }
    }
}

impl<T: FromJson> FromJson for Option<T> {
    fn read(value: Value) -> Result<Option<T>, Mistake> {
        match value {
            Value::Null => Ok(None),
            value => T::read(value).map(Some),
        }
    }

    fn absent() -> Option<Option<T>> {
        Some(None)
    }
}

impl<T: ToJson> ToJson for [T] {
    fn write(&self, out: &mut Writer) {
        out.array(&mut self.iter().map(|item| item as &dyn ToJson));
    }
}

impl<T: ToJson> ToJson for Vec<T> {
    fn write(&self, out: &mut Writer) {
        self.as_slice().write(out);
    }
}

impl<T: FromJson> FromJson for Vec<T> {
    fn read(value: Value) -> Result<Vec<T>, Mistake> {
        let mut items = Vec::new();
        for item in array(value)? {
            items.push(T::read(item)?);
        }
        Ok(items)
    }
}

fn array(value: Value) -> Result<Vec<Value>, Mistake> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(Mistake::expected("an array", &other)),
    }
}

impl<T: ToJson> ToJson for VecDeque<T> {
    fn write(&self, out: &mut Writer) {
        out.array(&mut self.iter().map(|item| item as &dyn ToJson));
    }
}

impl<T: FromJson> FromJson for VecDeque<T> {
    fn read(value: Value) -> Result<VecDeque<T>, Mistake> {
        Vec::read(value).map(VecDeque::from)
    }
}

impl ToJson for SortedSet<String> {
    fn write(&self, out: &mut Writer) {
        out.array(&mut self.iter().map(|item| item as &dyn ToJson));
    }
}

impl FromJson for SortedSet<String> {
    fn read(value: Value) -> Result<SortedSet<String>, Mistake> {
        Vec::read(value).map(SortedSet::from_iter)
    }
}

impl<A: ToJson, B: ToJson> ToJson for (A, B) {
    fn write(&self, out: &mut Writer) {
        out.array(&mut [&self.0 as &dyn ToJson, &self.1].into_iter());
    }
}

impl<A: FromJson, B: FromJson> FromJson for (A, B) {
    fn read(value: Value) -> Result<(A, B), Mistake> {
        match <[Value; 2]>::try_from(array(value)?) {
            Ok([a, b]) => Ok((A::read(a)?, B::read(b)?)),
            Err(_) => Err(Mistake::new("expected an array of two")),
        }
    }
}

/// A type that can be the key of a map, and so of an object in JSON.
pub trait MapKey: Ord + Sized {
    fn to_key(&self) -> String;
    fn from_key(text: String) -> Option<Self>;
}

impl MapKey for String {
    fn to_key(&self) -> String {
        self.clone()
    }

    fn from_key(text: String) -> Option<String> {
        Some(text)
    }
}

macro_rules! number_keys {
    ($($number:ty),+) => {$(
        impl MapKey for $number {
            fn to_key(&self) -> String {
                self.to_string()
            }

            fn from_key(text: String) -> Option<$number> {
                text.parse().ok()
            }
        }
    )+};
}

number_keys!(u8, u32, u64);

impl<K: MapKey, V: ToJson> ToJson for SortedMap<K, V> {
    fn write(&self, out: &mut Writer) {
        out.raw("{");
        for (key, value) in self {
            out.field(&key.to_key(), value);
        }
        out.raw("}");
    }
}

impl<K: MapKey, V: FromJson> FromJson for SortedMap<K, V> {
    fn read(value: Value) -> Result<SortedMap<K, V>, Mistake> {
        let Fields(fields) = Fields::of(value)?;
        let mut map = SortedMap::new();
        for (text, value) in fields {
            let unknown = format!("`{text}` is no key");
            let key = K::from_key(text).ok_or_else(|| Mistake::new(unknown))?;
            map.insert(key, V::read(value)?);
        }
        Ok(map)
    }
}
