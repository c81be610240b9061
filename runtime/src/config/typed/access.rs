//! The parts of arrays, tables and enums.

use serde::Deserialize;
use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::Node;
use super::fault::Fault;

/// The items of an array.
pub(super) struct Items<'a> {
    pub(super) rest: std::vec::IntoIter<Node<'a>>,
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.rest.next() else { return Ok(None) };
        let (path, value) = (node.path.clone(), node.value.clone());
        seed.deserialize(node).map(Some).map_err(|fault: Fault| fault.at(path, &value))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The keys and values of a table.
pub(super) struct TableAccess<'a> {
    pub(super) rest: std::vec::IntoIter<(String, Node<'a>)>,
    pub(super) next: Option<Node<'a>>,
}

impl<'de> MapAccess<'de> for TableAccess<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        let key = Node::key(&node, key);
        self.next = Some(node);
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        match self.next.take() {
            Some(node) => {
                // Also for a type that fails only once it has the whole value, such as an untagged enum.
                let (path, value) = (node.path.clone(), node.value.clone());
                seed.deserialize(node).map_err(|fault: Fault| fault.at(path, &value))
            }
            None => Err(de::Error::custom("its type asked for a value before a key")),
        }
    }
}

/// A variant by name, with its content if it has some.
pub(super) struct Variant<'a> {
    pub(super) variant: String,
    pub(super) content: Option<Node<'a>>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = VariantContent<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, VariantContent<'a>), Fault> {
        let variant: StringDeserializer<Fault> =
            de::IntoDeserializer::into_deserializer(self.variant);
        Ok((seed.deserialize(variant)?, VariantContent(self.content)))
    }
}

pub(super) struct VariantContent<'a>(Option<Node<'a>>);

impl<'a> VariantContent<'a> {
    fn required(self, what: &'static str) -> Result<Node<'a>, Fault> {
        self.0.ok_or_else(|| de::Error::invalid_type(de::Unexpected::UnitVariant, &what))
    }
}

impl<'de> VariantAccess<'de> for VariantContent<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.0 {
            Some(node) => <()>::deserialize(node),
            None => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self.required("a table of the variant's name and its value")?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.required("a table of the variant's name and an array")?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let content = self.required("a table of the variant's name and a table")?;
        content.deserialize_struct("", fields, visitor)
    }
}
