// npm's fastly-purge, unmodified: fastly.js MODULES URL
const FastlyPurge = require(process.argv[2] + '/fastly-purge');
new FastlyPurge('unused').url(process.argv[3], (error) => process.exit(error ? 1 : 0));
