//! Types of the schema in JSON: the text that people write.

use serde_json::Value;
use unbroken_schema::{Address, Limit};

use super::{FromJson, Mistake, ToJson, Writer};

impl ToJson for Address {
    fn write(&self, out: &mut Writer) {
        out.display(self);
    }
}

impl FromJson for Address {
    fn read(value: Value) -> Result<Address, Mistake> {
        let address = String::read(value)?.parse();
        address.map_err(|error: unbroken_schema::AddressError| Mistake::new(error.to_string()))
    }
}

impl ToJson for Limit {
    fn write(&self, out: &mut Writer) {
        out.display(self);
    }
}

impl FromJson for Limit {
    fn read(value: Value) -> Result<Limit, Mistake> {
        let limit = String::read(value)?.parse();
        limit.map_err(|error: unbroken_schema::Error| Mistake::new(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn literals_round_trip() {
        for text in ["127.0.0.1:80", "[::]:80", "[::1]:65535", "unix:/run/a b.sock", "0.0.0.0:0"] {
            let address: Address = text.parse().unwrap();
            let json = json::to_vec(&address).unwrap();
            assert_eq!(json::from_slice::<Address>(&json).unwrap(), address);
        }
    }
}
