//! The made-up wholesaler's catalogue, and how much each product is in demand.

use crate::dataset::Price;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

const COLOURS: [&str; 12] =
    ["RED", "BLUE", "PINK", "GREEN", "IVORY", "BLACK", "WHITE", "SILVER", "GOLD", "VINTAGE", "RETRO", "RUSTIC"];
const STYLES: [&str; 12] = [
    "SPOTTY",
    "STRIPED",
    "HEART",
    "STAR",
    "ROSE",
    "UNION JACK",
    "DAISY",
    "PAISLEY",
    "WOODLAND",
    "CHRISTMAS",
    "PARISIAN",
    "ZINC",
];
const THINGS: [&str; 20] = [
    "LANTERN",
    "T-LIGHT HOLDER",
    "LUNCH BAG",
    "CAKESTAND 3 TIER",
    "DOORMAT",
    "MUG",
    "TEA TOWEL",
    "NAPKINS, PACK OF 20",
    "COAT HANGER",
    "HOT WATER BOTTLE",
    "BUNTING",
    "JIGSAW",
    "LETTER RACK",
    "PICTURE FRAME",
    "CUSHION COVER",
    "TIN",
    "WRAP",
    "CANDLE",
    "DOORSTOP",
    "TRINKET BOX",
];
const PENCE: [i32; 14] = [19, 42, 65, 85, 125, 145, 165, 210, 255, 295, 375, 495, 850, 1_275];

/// Demand for the product of rank r is proportional to 1 / (r + 10): Zipf's law, its head flattened as in the
/// published month, in which the first product has about 0.8 % of the rows.
const DEMAND: u64 = 1_000_000_000;
const FLATTENED_BY: u64 = 10;

#[derive(Debug, Clone)]
pub(super) struct Product {
    pub(super) code: String,
    pub(super) name: String,
    pub(super) price: Price,
}

#[derive(Debug)]
pub(super) struct Catalogue {
    products: Vec<Product>,
    /// The sum of the demands up to and with each product.
    demand: Vec<u64>,
}

impl Catalogue {
    pub(super) fn of(rng: &mut Xoshiro256PlusPlus, count: usize) -> Self {
        let mut products: Vec<Product> = Vec::with_capacity(count);
        let mut number = 20_000;
        while products.len() < count {
            number += rng.random_range(1..=9);
            let product = Product { code: format!("{number}"), name: name(rng), price: price(rng) };
            // A quarter comes in colours and so has a letter; of some, someone once wrote the letter small.
            match rng.random_range(0..20) {
                0..4 => products.push(Product { code: format!("{number}A"), ..product }),
                4 => {
                    products.push(Product { code: format!("{number}B"), ..product.clone() });
                    products.push(Product { code: format!("{number}b"), ..product });
                }
                _ => products.push(product),
            }
        }
        products.truncate(count);
        products.shuffle(rng);
        let demand = (FLATTENED_BY..)
            .zip(&products)
            .scan(0, |sum, (rank, _)| {
                *sum += DEMAND / (rank + 1);
                Some(*sum)
            })
            .collect();
        Self { products, demand }
    }

    pub(super) fn len(&self) -> usize {
        self.products.len()
    }

    /// Every product's place once, in an order of its own.
    pub(super) fn shuffled(&self, seed: u64) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.products.len()).collect();
        places.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(!seed));
        places
    }

    /// The product at a place of [`Self::shuffled`]; the first for any other.
    pub(super) fn get(&self, place: usize) -> Product {
        let product = self.products.get(place).or_else(|| self.products.first());
        product.cloned().unwrap_or(Product { code: String::new(), name: String::new(), price: Price::ZERO })
    }

    /// A product, the likelier the more it is in demand.
    pub(super) fn by_demand(&self, rng: &mut Xoshiro256PlusPlus) -> Product {
        let all = self.demand.last().copied().unwrap_or(1);
        let point = rng.random_range(0..all.max(1));
        self.get(self.demand.partition_point(|up_to| *up_to <= point))
    }
}

fn word(rng: &mut Xoshiro256PlusPlus, words: &[&'static str]) -> &'static str {
    words.get(rng.random_range(0..words.len().max(1))).copied().unwrap_or_default()
}

fn name(rng: &mut Xoshiro256PlusPlus) -> String {
    format!("{} {} {}", word(rng, &COLOURS), word(rng, &STYLES), word(rng, &THINGS))
}

fn price(rng: &mut Xoshiro256PlusPlus) -> Price {
    Price::from_pence(PENCE.get(rng.random_range(0..PENCE.len())).copied().unwrap_or(100))
}
