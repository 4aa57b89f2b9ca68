//! The placement driver: ids, regions, routes, leader spreading.
