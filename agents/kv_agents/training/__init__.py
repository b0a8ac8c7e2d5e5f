"""How scorers are trained: distillation, GRPO, PPO."""
