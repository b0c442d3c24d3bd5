// Few rules, on purpose. `no-floating-promises` is the one that must never go: an unawaited promise
// in a streaming engine is a lost error or a buffer reused too early.
import tseslint from 'typescript-eslint'

export default tseslint.config(
  {
    ignores: [
      'dist/',
      'native*/',
      'out/',
      'node_modules/',
      'src/noise/*.as.ts',
      '.venv/',
      '.cache/',
    ],
  },
  ...tseslint.configs.recommended,
  {
    files: ['**/*.ts'],
    languageOptions: { parserOptions: { project: './tsconfig.json' } },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/no-non-null-assertion': 'off',
      'no-console': 'error',
    },
  },
  {
    files: ['src/**/*.ts', 'scheduler/**/*.ts', 'models/**/*.ts'],
    rules: {
      // A call takes some 100,000 arguments: a longer list overflows the stack.
      'no-restricted-syntax': [
        'error',
        {
          selector:
            'CallExpression[callee.property.name=/^(max|min|hypot|push|unshift|splice|concat|fromCharCode|fromCodePoint)$/] > SpreadElement',
          message: 'Take a loop, maxOf or minOf (src/util/extremes.ts): lists may be long.',
        },
      ],
    },
  },
)
