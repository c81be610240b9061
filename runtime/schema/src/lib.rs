//! The configuration keys that the `#[daemon]` attribute and the runtime of `unbroken` share.
//!
//! The attribute checks its literals with this crate, and the runtime checks the file, the environment
//! and the command line with it. A new key is an entry in [`KEYS`], a field of the runtime's settings and
//! a test.
//!
//! Private to `unbroken`: it follows no versioning of its own.

mod address;
pub mod duration;
mod error;
mod kind;
mod limit;
mod name;
mod suggest;
mod table;

pub use address::{
    Address, AddressError, Listen, check_distinct, check_socket_path, is_address_word,
    suggested_address,
};
pub use error::Error;
pub use kind::{Input, Kind, Value, flag_text};
pub use limit::Limit;
pub use name::{DEFAULT_PREFIX, LISTENER_NAME_RULE, is_listener_name};
pub use suggest::{distance, nearest, one_of};
pub use table::{
    ATTRIBUTE_KEYS, CAPABILITIES, Fallback, HTTP_FIELDS, KEYS, Key, LIMITS,
    LISTENER_ATTRIBUTE_FIELDS, LISTENER_FIELDS, LISTENER_VARIABLE, Needs, SECTIONS, attribute_key,
    key, listener_attribute_field, listener_field, reference,
};
